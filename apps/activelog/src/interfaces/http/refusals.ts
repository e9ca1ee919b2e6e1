import type { Logger } from '../../application/ports.ts'
import { isBusy, isLocked } from '../../infrastructure/database.ts'

export interface RefusalOptions {
  /** At least, between two lines of one kind. @default 30_000 */
  everyMs?: number
  /** Monotonic, ms. @default performance.now */
  now?: () => number
}

/**
 * Tells of requests that are refused for a lock that somebody holds, or because all connections are in use. These come in crowds, and say all the same: a line
 * for the first one, then one now and then with how many they were since. Gives whether a request was one of these.
 */
export function tellRefusals(
  logger: Logger,
  { everyMs = 30_000, now = () => performance.now() }: RefusalOptions = {},
): (fields: { readonly err?: unknown }) => boolean {
  const kinds = [
    { is: isLocked, text: 'Requests are refused: somebody holds a lock', requests: 0, toldAt: -Infinity },
    { is: isBusy, text: 'Requests are refused: all connections are in use', requests: 0, toldAt: -Infinity },
  ]
  return (fields) => {
    const kind = kinds.find(({ is }) => is(fields.err))
    if (!kind) return false
    kind.requests++
    if (now() < kind.toldAt + everyMs) {
      logger.debug(fields, 'Request')
      return true
    }
    logger.warn({ ...fields, requests: kind.requests }, kind.text)
    kind.requests = 0
    kind.toldAt = now()
    return true
  }
}
