/** The one source of time that a package takes in, so that tests can own it. */
export interface Clock {
  /** Wall time, ms since the epoch. */
  now(): number
  /** Monotonic time in ms, for measuring: never steps back. */
  monotonic(): number
  /** Resolves after `ms`; rejects with the signal's reason when it aborts first. `background`: does not keep the process alive. */
  sleep(ms: number, options?: { signal?: AbortSignal | undefined; background?: boolean }): Promise<void>
}

/** Node's timers wake at once when they are to wait longer. */
const longestMs = 2 ** 31 - 1

/** The machine's clocks and `setTimeout`. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep: (ms, { signal, background } = {}) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason as Error)
      let timer: NodeJS.Timeout
      const onAbort = (): void => {
        clearTimeout(timer)
        reject(signal!.reason as Error)
      }
      const wait = (left: number): void => {
        timer = setTimeout(
          () => {
            if (left > longestMs) return wait(left - longestMs)
            signal?.removeEventListener('abort', onAbort)
            resolve()
          },
          Math.min(left, longestMs),
        )
        if (background) timer.unref()
      }
      wait(ms)
      signal?.addEventListener('abort', onAbort, { once: true })
    }),
}
