/** The one source of time that a package takes in, so that tests can own it. */
export interface Clock {
  /** Wall time, ms since the epoch. */
  now(): number
  /** Monotonic time in ms, for measuring: never steps back. */
  monotonic(): number
  /** Resolves after `ms`; rejects with the signal's reason when it aborts first. `background`: does not keep the process alive. */
  sleep(ms: number, options?: { signal?: AbortSignal | undefined; background?: boolean }): Promise<void>
}

/** The machine's clocks and `setTimeout`. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: (ms, { signal, background } = {}) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason as Error)
      const onAbort = (): void => {
        clearTimeout(timer)
        reject(signal!.reason as Error)
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort)
        resolve()
      }, ms)
      if (background) timer.unref()
      signal?.addEventListener('abort', onAbort, { once: true })
    }),
}
