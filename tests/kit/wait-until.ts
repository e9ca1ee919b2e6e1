import { setTimeout as sleep } from 'node:timers/promises'

export interface WaitUntilOptions {
  /** Hang guard, not an expectation: generous. @default 20_000 */
  guardMs?: number
  /** @default 5 */
  everyMs?: number
  /** Named in the error. */
  what?: string
}

/** Asks until the answer is neither `undefined`, `null` nor `false`, and returns it. What `condition` throws ends the wait. */
export async function waitUntil<T>(
  condition: () => T | Promise<T>,
  { guardMs = 20_000, everyMs = 5, what }: WaitUntilOptions = {},
): Promise<NonNullable<Exclude<T, false>>> {
  const until = performance.now() + guardMs
  for (;;) {
    const answer = await condition()
    if (answer !== undefined && answer !== null && answer !== false) return answer as NonNullable<Exclude<T, false>>
    if (performance.now() > until) throw new Error(`Waited ${guardMs} ms in vain for ${what ?? condition.toString()}`)
    await sleep(everyMs)
  }
}
