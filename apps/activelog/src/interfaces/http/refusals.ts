import { type Clock, systemClock } from '@core-backend/internal/clock'
import type { Logger } from '../../application/ports.ts'
import { isBusy, isLocked } from '../../infrastructure/database.ts'

export interface RefusalOptions {
  /** At least, between two lines of one kind. @default 30_000 */
  everyMs?: number
  clock?: Clock
}

interface Refused {
  readonly err?: unknown
}

/**
 * Tells of requests that are refused for a lock that somebody holds, or because all connections are in use. These come in crowds, and say all the same: a line
 * for the first one, then one now and then with how many they were since, as long as there are any. Gives whether a request was one of these.
 */
export function tellRefusals(logger: Logger, { everyMs = 30_000, clock = systemClock }: RefusalOptions = {}): (fields: Refused) => boolean {
  const kinds = [crowd(isLocked, 'Requests are refused: somebody holds a lock'), crowd(isBusy, 'Requests are refused: all connections are in use')]

  function crowd(is: (error: unknown) => boolean, text: string): { is: typeof is; add(fields: Refused): void } {
    let requests = 0
    let last: Refused = {}
    let told = false
    const tell = (): void => {
      logger.warn({ ...last, requests }, text)
      requests = 0
      told = true
      void clock.sleep(everyMs, { background: true }).then(() => {
        told = false
        if (requests > 0) tell()
      })
    }
    const add = (fields: Refused): void => {
      requests++
      last = fields
      if (told) logger.debug(fields, 'Request')
      else tell()
    }
    return { is, add }
  }

  return (fields) => {
    const kind = kinds.find(({ is }) => is(fields.err))
    kind?.add(fields)
    return kind !== undefined
  }
}
