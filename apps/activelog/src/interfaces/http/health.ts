import { errorText } from '@core-backend/internal/thrown'

/** One thing that the process stands on. */
export type Check = (options: { signal: AbortSignal }) => Promise<{ readonly status: string }>

export interface HealthReport {
  readonly status: 'ok' | 'degraded' | 'down'
  readonly checks: Record<string, { readonly status: string }>
}

/** Who asks while the question is under way gets the same answer: one that does not come keeps one connection, however many want it. */
export function oneAtATime<T>(ask: () => Promise<T>): () => Promise<T> {
  let asked: Promise<T> | undefined
  return () => (asked ??= ask().finally(() => (asked = undefined)))
}

/** For an answer, to health and to metrics. */
export const patienceMs = 2_000

/** Asks all at once, each for two seconds at most. What is down takes all down; errors are told in one line. */
export async function healthOf(checks: Record<string, Check>): Promise<HealthReport> {
  const signal = AbortSignal.timeout(patienceMs)
  const results = await Promise.all(
    Object.entries(checks).map(async ([name, check]) => {
      const late = new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(new Error('no answer')), { once: true }))
      const result = await Promise.race([check({ signal }), late]).catch((error: unknown) => ({ status: 'down', error: errorText(error) }))
      return [name, result] as const
    }),
  )
  const statuses = results.map(([, { status }]) => status)
  const status = statuses.includes('down') ? 'down' : statuses.every((one) => one === 'ok') ? 'ok' : 'degraded'
  return { status, checks: Object.fromEntries(results) }
}
