import type { Clock } from '#internal/clock'
import { StatementTimeoutError } from './errors.ts'

/** Settles as the statement does, or rejects when it gives no answer in time: a dead connection must not stop a relay for ever. */
export async function answered<T>(statement: Promise<T>, clock: Clock, timeoutMs = 30_000): Promise<T> {
  const settled = new AbortController()
  const timeout = clock.sleep(timeoutMs, { signal: settled.signal }).then(
    () => Promise.reject(new StatementTimeoutError(timeoutMs)),
    () => new Promise<never>(() => {}),
  )
  try {
    return await Promise.race([statement, timeout])
  } finally {
    settled.abort()
  }
}
