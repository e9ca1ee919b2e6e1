import { execFileSync } from 'node:child_process'
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { EmbeddedPostgresError } from './error.ts'

/** Somebody's word that the folder is theirs. `startId` tells the process from a later one that got its pid. */
interface Claim {
  pid: number
  startId: string
  state: 'claiming' | 'holding'
}

/**
 * Makes this process the only owner of a folder until `release()` or its death, however it dies.
 * Everybody first writes a claim under a name of their own, then looks at all the others: of two who come at the same time at least one sees the other, and the
 * lower pid goes first. No claim is ever taken over, so there is no moment at which two could take the same one. Throws {@link EmbeddedPostgresError}.
 */
export async function claimFolder(folder: string): Promise<{ release(): Promise<void> }> {
  const own = join(folder, `owner-${process.pid}.json`)
  const startId = startIdOf(process.pid) ?? ''
  const write = async (state: Claim['state']): Promise<void> => {
    const claim: Claim = { pid: process.pid, startId, state }
    await writeFile(`${own}.new`, JSON.stringify(claim))
    await rename(`${own}.new`, own)
  }
  const mine = await readClaim(own)
  if (mine?.startId === startId) throw heldBy(folder, process.pid)
  await write('claiming')
  try {
    for (const name of await readdir(folder)) {
      if (/^owner-\d+\.json$/.test(name) && join(folder, name) !== own) await yieldTo(folder, join(folder, name))
    }
    await write('holding')
  } catch (error) {
    await rm(own, { force: true })
    throw error
  }
  return { release: () => rm(own, { force: true }) }
}

/** Returns once the claim in `file` is gone or its process is; throws when that process keeps the folder. */
async function yieldTo(folder: string, file: string): Promise<void> {
  for (;;) {
    const other = await readClaim(file)
    if (!other || startIdOf(other.pid) !== other.startId) return rm(file, { force: true })
    if (other.state === 'holding' || other.pid < process.pid) throw heldBy(folder, other.pid)
    await sleep(10)
  }
}

function heldBy(folder: string, pid: number): EmbeddedPostgresError {
  return new EmbeddedPostgresError(
    'ERR_EMBEDDED_POSTGRES_HELD',
    `The data folder ${folder} is held by pid ${pid}: stop that process, or set DATA_DIR to another folder`,
  )
}

async function readClaim(file: string): Promise<Claim | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as Claim
  } catch {
    return undefined
  }
}

const bootId = readOr('/proc/sys/kernel/random/boot_id', '').trim()

/** What tells this life of a pid from another one: its start time. `undefined` when no live process has the pid (a zombie is not alive). */
export function startIdOf(pid: number): string | undefined {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return undefined
  }
  if (process.platform === 'linux') {
    const stat = readOr(`/proc/${pid}/stat`, '')
    // The name, in parentheses, may hold anything; after it come the state and, as the 20th, the start in ticks since the boot.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return stat === '' || fields[0] === 'Z' || fields[0] === 'X' ? undefined : `${bootId}:${fields[19]}`
  }
  if (process.platform === 'win32') return 'alive'
  const [state = '', ...started] = ps('stat=,lstart=', '-p', String(pid)).split(/\s+/)
  return state === '' || state.startsWith('Z') ? undefined : started.join(' ')
}

/** The command line of a live process, its arguments separated by a space; empty when there is none to see. */
export function commandOf(pid: number): string {
  if (process.platform === 'linux') return readOr(`/proc/${pid}/cmdline`, '').replaceAll('\0', ' ').trim()
  return process.platform === 'win32' ? '' : ps('command=', '-p', String(pid))
}

/** What the system's `ps` says; empty when it finds nothing, or is not there. */
export function ps(columns: string, ...which: string[]): string {
  try {
    return execFileSync('ps', ['-ww', '-o', columns, ...which], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } }).trim()
  } catch {
    return ''
  }
}

function readOr(file: string, otherwise: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return otherwise
  }
}
