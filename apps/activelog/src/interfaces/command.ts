import { resolve } from 'node:path'
import { errorText } from '@core-backend/internal/thrown'
import { pino } from 'pino'
import type { Logger } from '../application/ports.ts'
import { dayOf } from '../domain/activity.ts'
import { type ActivelogSettings, fromEnv, variableTable } from '../infrastructure/settings.ts'
import type { Progress } from '../infrastructure/progress.ts'
import { playDemo } from './demo.ts'

export interface StartOptions {
  logger: Logger
  /** Told when something is broken that only a new start can mend. */
  onFatal?: (error: Error) => void
  /** Ends a start that is under way: it then rejects. */
  signal?: AbortSignal
  /** What of an orderly end still waits for the database after this long is cut off. @default 20_000 */
  closeMs?: number
  /** How long connections on which nothing is asked are kept at the end: a request may be on its way. @default 1_000 */
  graceMs?: number
}

/** A running process of the service. */
export interface Activelog {
  /** Where it listens, if it does. */
  readonly url: string | undefined
  /** A command that looks into the embedded database, where there is one. */
  readonly psql: string | undefined
  /** How far the events are, counted in the tables; of those that have `sinceId` or a later id. */
  progress(sinceId: string): Promise<Progress>
  /** Answers what was asked, finishes what is under way, stops the database last. */
  close(): Promise<void>
}

type Start = (settings: ActivelogSettings, options: StartOptions) => Promise<Activelog>

/** A terminal's Ctrl-C reaches us twice under npm, which also hands it on. */
const sameKeyMs = 250

/** Longer than everything that an end waits for. */
const endMs = 30_000

/** `npm start`: runs until Ctrl-C or SIGTERM, a second one of which ends it at once; nothing is lost by that. A closed stdout or stderr ends nothing. Every fault is one line and exit code 1. */
export async function runCommand(start: Start, args: readonly string[] = process.argv.slice(2)): Promise<void> {
  // Whoever reads what is written may go, as `head` does, or a `tee` that the same Ctrl-C reaches: that ends nothing.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  const stopping = new AbortController()
  let stoppedAt = 0
  const onSignal = (): void => {
    if (!stopping.signal.aborted) {
      stoppedAt = performance.now()
      stopping.abort()
      setTimeout(() => {
        console.error(`activelog: Not stopped within ${endMs} ms, so it ends as it is; nothing is lost`)
        process.exit(1)
      }, endMs).unref()
    } else if (performance.now() - stoppedAt > sameKeyMs) process.exit(130)
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal)

  let fatal: Error | undefined
  try {
    const { settings, demo, help } = read(args)
    if (help) {
      console.log(helpText())
      return
    }
    stopping.signal.addEventListener('abort', () => console.log(farewell(settings)), { once: true })
    const logger = pino({ level: settings.logLevel, base: { role: settings.role, environment: settings.environment } })
    process.on('unhandledRejection', (error) => logger.error({ err: error }, 'Unhandled rejection'))
    const onFatal = (error: Error): void => {
      fatal = error
      stopping.abort()
    }
    const { signal } = stopping
    const activelog = await start(settings, { logger: demo ? quiet(logger) : logger, onFatal, signal }).catch((error: unknown) => {
      if (fatal || !signal.aborted) throw error
    })
    if (!activelog) return console.log('Stopped')
    if (!stopping.signal.aborted) greet(settings, activelog)
    try {
      if (demo) await playDemo(activelog, settings.tenants, stopping.signal)
      else await aborted(stopping.signal)
    } finally {
      await activelog.close()
    }
    if (fatal) throw fatal
    console.log('Stopped')
  } catch (error) {
    console.error(`activelog: ${errorText(fatal ?? error).replaceAll(/\s*\n\s*/g, ' ')}`)
    process.exitCode = 1
  }
}

const flags: Record<string, string> = { '--demo': 'plays traffic for three tenants and counts along', '--help': 'shows this' }

function read(given: readonly string[]): { settings: ActivelogSettings; demo: boolean; help: boolean } {
  const args = given.map((arg) => (arg === '-h' ? '--help' : arg))
  const unknown = args.find((arg) => !Object.hasOwn(flags, arg))
  if (unknown !== undefined) throw new TypeError(`Unknown argument ${unknown}: there are ${Object.keys(flags).join(' and ')}`)
  const help = args.includes('--help')
  const settings = fromEnv(help ? {} : process.env)
  // What stands before npm's own `--` is npm's, and it hands it on as a variable: `npm start --demo`.
  const demo = args.includes('--demo') || process.env['npm_config_demo'] === 'true'
  if (demo && settings.role !== 'all') throw new TypeError(`--demo needs ROLE=all, got ROLE=${settings.role}`)
  return { settings, demo, help }
}

function helpText(): string {
  const line = (left: string, right: string): string => `  ${left.padEnd(32)}${right}`
  return [
    'ActiveLog, an activity log for many tenants, on a PostgreSQL that it brings or on yours.',
    '',
    line('npm start', 'runs until Ctrl-C'),
    ...Object.entries(flags).map(([flag, about]) => line(`npm start -- ${flag}`, about)),
    '',
    'Variables, with what they are when not set:',
    '',
    ...variableTable.map(({ name, value, about }) => line(`${name}=${value}`, about.replaceAll('`', ''))),
  ].join('\n')
}

/** What is waited for, in its order. */
function farewell({ role, listen, databaseUrl }: ActivelogSettings): string {
  const parts = [
    ...(listen ? ['open requests'] : []),
    ...(role === 'all' || role === 'worker' ? ['running handlers'] : []),
    ...(role === 'all' || role === 'relay' ? ['events in hand'] : []),
    ...(databaseUrl === undefined ? ['PostgreSQL'] : []),
  ]
  return `${process.stdout.isTTY ? '\n' : ''}Stopping, waits for ${parts.join(', ')}; Ctrl-C again ends at once, and loses nothing either`
}

/** Log lines would tear the live line apart. Pino's methods want their logger as `this`. */
const quiet = (logger: pino.Logger): Logger => ({ debug: () => {}, info: () => {}, warn: logger.warn.bind(logger), error: logger.error.bind(logger) })

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    // A signal listener alone does not keep a process alive, and a relay or worker may wait on nothing but unreferenced timers.
    const alive = setInterval(() => {}, 2 ** 30)
    const end = (): void => {
      clearInterval(alive)
      resolve()
    }
    if (signal.aborted) end()
    else signal.addEventListener('abort', end, { once: true })
  })
}

function greet({ role, tenants, databaseUrl, dataDir }: ActivelogSettings, { url, psql }: Activelog): void {
  const data = databaseUrl === undefined ? resolve(dataDir) : placeOf(databaseUrl)
  console.log(`ActiveLog ${url === undefined ? `(${role}) is at work` : `(${role}) listens on ${url}`}, data in ${data}`)
  if (url === undefined || (role !== 'all' && role !== 'api')) return
  const as = `-H 'X-Tenant-ID: ${tenants[0]}'`
  const run = { userId: 1, type: 'running', title: 'Morning run', durationMinutes: 32, distanceKm: 6.1, activityDate: dayOf(new Date()) }
  console.log(`
  curl ${url}/activities ${as} -H 'Content-Type: application/json' -d '${JSON.stringify(run)}'
  curl ${url}/users/1/stats ${as}
  curl -N ${url}/events ${as}
${psql === undefined ? '' : `  ${psql}\n`}`)
}

/** Neither user nor password. */
function placeOf(databaseUrl: string): string {
  const { hostname, port, pathname, searchParams } = new URL(databaseUrl)
  return `database ${pathname.slice(1) || '(the default)'} at ${hostname || (searchParams.get('host') ?? 'localhost')}:${port || 5432}`
}
