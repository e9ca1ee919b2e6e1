import { fullJitter } from '#internal/backoff'
import { saysNo } from '#internal/callbacks'
import { isRetryable } from './errors.ts'
import { warning } from './hooks.ts'

/** What happens to a message whose handler failed; the same on every broker. */
export interface RetryOptions {
  /** Failed runs in a group, inline and delayed together, before the message is a dead letter. @default 3 */
  maxAttempts?: number | undefined
  /** Bound of the first wait; waits are uniform in [0, bound] (full jitter). @default 1_000 */
  initialDelayMs?: number | undefined
  /** @default 30_000 */
  maxDelayMs?: number | undefined
  /** @default 2 */
  multiplier?: number | undefined
  /** False sends the message to the dead letters at once; a predicate that throws or gives a promise has not said so, and is a process warning. Asked after the error's own `retryable: false`. */
  isRetryable?: ((error: unknown) => boolean) | undefined
  /**
   * `hold`: the key's lane waits, order is kept. `leave-order`: the message goes through the group's private source and those behind it go on.
   * @default 'hold', and 'leave-order' under order: 'none'
   */
  onRetry?: 'hold' | 'leave-order' | undefined
  /** With 'leave-order': runs before the message leaves its place. @default 1 */
  inlineAttempts?: number | undefined
}

/** What to do after a failed run. */
export type Verdict = { readonly kind: 'wait' | 'redeliver'; readonly delayMs: number } | { readonly kind: 'dead' }

export type RetryPolicy = (error: unknown, failures: number, delayMs: number | undefined) => Verdict

export function retryPolicy(options: RetryOptions, { leaveOrder, random }: { leaveOrder: boolean; random: () => number }): RetryPolicy {
  const { maxAttempts = 3, initialDelayMs: initialMs = 1_000, maxDelayMs: maxMs = 30_000, multiplier = 2, inlineAttempts = 1 } = options
  return (error, failures, asked) => {
    if (failures >= maxAttempts || !isRetryable(error) || saysNo('retry.isRetryable', warning, () => options.isRetryable?.(error))) return { kind: 'dead' }
    const delayMs = asked ?? fullJitter(failures, { initialMs, maxMs, multiplier }, random)
    return { kind: leaveOrder && failures >= inlineAttempts ? 'redeliver' : 'wait', delayMs }
  }
}
