export interface Backoff {
  /** Upper bound of the first wait, ms. */
  initialMs: number
  /** Upper bound of every wait, ms. */
  maxMs: number
  /** Growth of the bound from one wait to the next. */
  multiplier: number
}

/**
 * The wait after failure `n` (1-based): uniform in [0, min(maxMs, initialMs * multiplier^(n-1))].
 * "Full jitter" of Brooker, Exponential Backoff and Jitter (2015): callers that failed together come back apart.
 */
export function fullJitter(n: number, { initialMs, maxMs, multiplier }: Backoff, random: () => number = Math.random): number {
  return random() * Math.min(maxMs, initialMs * multiplier ** (n - 1))
}
