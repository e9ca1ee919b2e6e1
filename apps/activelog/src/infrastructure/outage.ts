import type { Logger } from '../application/ports.ts'
import { isBusy, isUnavailable } from './database.ts'

/** A database that goes away makes everything fail that touches it: told in a line at its beginning, one now and then and one at its end, not by each failure. */
export interface Outage {
  /** Looks at how a statement ends, and hands it on. */
  watch<T>(statement: Promise<T>): Promise<T>
  /** For everything else that fails: an error that was told here, or that such a one has caused, is a matter of `debug`. */
  readonly logger: Logger
}

export interface OutageOptions {
  /** At least, between two lines that it is still away. @default 30_000 */
  everyMs?: number
  /** Monotonic, ms. @default performance.now */
  now?: () => number
}

/** A server of which only some connections fail comes and goes with every statement: between two outages that are told this long passes at least. */
const apartMs = 1_000

/** Who has waited this long for a free connection while nobody heard from the server waits for one that says nothing. */
const silentMs = 5_000

/** Of the database at `url`. */
export function watchOutage(url: string, logger: Logger, { everyMs = 30_000, now = () => performance.now() }: OutageOptions = {}): Outage {
  const { hostname: host, port } = new URL(url)
  const told = new WeakSet<object>()
  let begun = 0
  let heardAt = now()
  let begunAtLastFailure = 0
  let failures = 0
  let since = 0
  /** The outage that runs has a line, so its end gets one. */
  let known = false
  let toldAt = -Infinity

  function failed(error: unknown): void {
    const silent = isBusy(error) && (failures > 0 || now() >= heardAt + silentMs)
    if (!silent && !isUnavailable(error)) {
      if (!isBusy(error)) heardAt = now()
      return
    }
    told.add(error as object)
    begunAtLastFailure = begun
    if (failures++ === 0) since = now()
    if (now() < toldAt + (known ? everyMs : apartMs)) return
    const { code, message } = error as { code?: string; message: string }
    logger.warn(
      { code, host, port, reason: message, failures, awayMs: Math.round(now() - since) },
      known ? 'The database is still away' : 'The database is away',
    )
    known = true
    toldAt = now()
  }

  function answered(beganAs: number): void {
    heardAt = now()
    // What was asked before the last failure says nothing about the time after it.
    if (failures === 0 || beganAs <= begunAtLastFailure) return
    if (known) logger.info({ host, port, failures, awayMs: Math.round(now() - since) }, 'The database is back')
    failures = 0
    known = false
  }

  const isTold = (error: unknown): boolean => typeof error === 'object' && error !== null && (told.has(error) || isTold((error as { cause?: unknown }).cause))
  /** Deadlines of ours run out on a server that says nothing: these errors have no cause to know them by. */
  const isOfOutage = (error: unknown): boolean => isTold(error) || (known && / no answer within \d+ ms/.test((error as Error | undefined)?.message ?? ''))
  const unless = (level: 'warn' | 'error') => (fields: object, text: string) =>
    isOfOutage((fields as { err?: unknown }).err) ? logger.debug(fields, text) : logger[level](fields, text)

  return {
    async watch(statement) {
      const number = ++begun
      try {
        const result = await statement
        answered(number)
        return result
      } catch (error) {
        failed(error)
        throw error
      }
    },
    logger: {
      debug: (fields, text) => logger.debug(fields, text),
      info: (fields, text) => logger.info(fields, text),
      warn: unless('warn'),
      error: unless('error'),
    },
  }
}
