import type { Clock } from '#internal/clock'

/** A clock that stands still until it is told to move. Hand it to `createBroker` and to `memoryDriver`, and a day of leases, retries and delays takes a moment. */
export interface VirtualClock extends Clock {
  /** Moves on by `ms`: what falls due on the way happens in order, each thing finished as far as it goes before the next. */
  advance(ms: number): Promise<void>
  /** Moves on by `ms` in one step, as for a process that stood still: what fell due meanwhile happens only afterwards. */
  jump(ms: number): Promise<void>
  /** Runs `fn` and moves from timer to timer whenever nothing else is left to do. Rejects when `fn` still waits and no timer is left. */
  run<T>(fn: () => Promise<T>): Promise<T>
  /** Sleeps under way. */
  readonly sleeping: number
}

interface Sleep {
  readonly due: number
  wake(): void
}

/** Starts at `startMs`, ms since the epoch. `background` means nothing here: no sleep keeps the process alive. */
export function virtualClock(startMs: number = Date.UTC(2030, 0, 1)): VirtualClock {
  let elapsed = 0
  let turn: Promise<void> = Promise.resolve()
  /** By due time; those of one time in the order in which they were asked for. */
  const sleeps: Sleep[] = []

  const wakeNext = async (): Promise<void> => {
    const next = sleeps.shift()!
    elapsed = Math.max(elapsed, next.due)
    next.wake()
    await settled()
  }

  const move = async (ms: number): Promise<void> => {
    const until = elapsed + ms
    await settled()
    while (sleeps.length > 0 && sleeps[0]!.due <= until) await wakeNext()
    elapsed = Math.max(elapsed, until)
  }

  return {
    now: () => startMs + elapsed,
    monotonic: () => elapsed,
    sleep: (ms, { signal } = {}) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason as Error)
        const sleep: Sleep = {
          due: elapsed + Math.max(0, ms),
          wake: () => {
            signal?.removeEventListener('abort', onAbort)
            resolve()
          },
        }
        const onAbort = (): void => {
          sleeps.splice(sleeps.indexOf(sleep), 1)
          reject(signal!.reason as Error)
        }
        sleeps.splice(sleeps.findLastIndex((other) => other.due <= sleep.due) + 1, 0, sleep)
        signal?.addEventListener('abort', onAbort, { once: true })
      }),
    advance: (ms) => {
      if (!(ms >= 0)) throw new RangeError(`Time does not go back: advance(${ms})`)
      turn = turn.then(() => move(ms))
      return turn
    },
    jump: (ms) => {
      if (!(ms >= 0)) throw new RangeError(`Time does not go back: jump(${ms})`)
      elapsed += ms
      turn = turn.then(() => move(0))
      return turn
    },
    run: async (fn) => {
      let over = false
      const result = fn().finally(() => (over = true))
      // Awaited at the end; until then a rejection is no surprise.
      result.catch(() => undefined)
      for (let idle = 0; ;) {
        await settled()
        if (over) return result
        if (sleeps.length > 0) {
          idle = 0
          await wakeNext()
        } else if (++idle > 1_000) throw new Error('It waits for something that no timer will bring')
      }
    },
    get sleeping() {
      return sleeps.length
    },
  }
}

/** Promise chains run to their end before an immediate; the second turn is for code that used one itself. */
async function settled(): Promise<void> {
  for (let i = 0; i < 2; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}
