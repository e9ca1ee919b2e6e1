import { enough } from '#internal/abort'
import type { Clock } from '#internal/clock'
import { StatementTimeoutError } from './errors.ts'

/** Settles as the call does, or rejects when it gives no answer in time: a dead connection must not stop a relay for ever. */
export async function answered<T>(call: Promise<T>, clock: Clock, timeoutMs = 30_000, late = (): Error => new StatementTimeoutError(timeoutMs)): Promise<T> {
  const settled = new AbortController()
  const timeout = clock.sleep(timeoutMs, { signal: settled.signal }).then(
    () => Promise.reject(late()),
    () => new Promise<never>(() => {}),
  )
  try {
    return await Promise.race([call, timeout])
  } finally {
    settled.abort(enough)
  }
}
