import { setTimeout as sleep } from 'node:timers/promises'
import type { Transaction } from '@core-backend/internal/sql'
import type { Logger } from '../application/ports.ts'
import { type Database, isLocked } from './database.ts'

export interface WaitOptions {
  /** Told of each try that found a lock. */
  logger?: Logger
  signal?: AbortSignal | undefined
  /** Between two tries. @default 5_000 */
  againMs?: number
}

/** Everybody else who comes for the table meanwhile waits behind it. */
const lockMs = 500

/** A transaction that waits half a second for the locks of others, and then lets everybody pass and tries again, for as long as it takes. */
export function whenFree<T>(db: Database, what: string, fn: (tx: Transaction) => Promise<T>, options?: WaitOptions): Promise<T> {
  const attempt = async (tx: Transaction): Promise<T> => {
    await tx.query(`SET LOCAL lock_timeout = ${lockMs}`)
    return fn(tx)
  }
  return untilFree(what, () => db.transaction(attempt), options)
}

/** Tries again what gave up waiting for a lock, for as long as it takes. */
export async function untilFree<T>(what: string, fn: () => Promise<T>, { logger, signal, againMs = 5_000 }: WaitOptions = {}): Promise<T> {
  for (;;) {
    try {
      return await fn()
    } catch (error) {
      if (!isLocked(error)) throw error
      logger?.warn({ err: error, what }, 'The start waits for a lock that somebody else holds')
      await sleep(againMs, undefined, { signal })
    }
  }
}
