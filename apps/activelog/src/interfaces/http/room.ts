import { enough } from '@core-backend/internal/abort'
import type { Clock } from '@core-backend/internal/clock'
import type { Position } from '../../application/ports.ts'

/** Who waits for what comes next. */
export interface Waiting<Found extends object = object> {
  /** How far it is; undefined while that could not be found out. */
  readonly position: Position | undefined
  /** What is new to it, if anything is. Does not reject. */
  look(): Promise<Found | undefined>
}

/** Where the listeners of one tenant wait. One of them looks for all: a quiet tenant costs one look at a time, however many listen. */
export interface Room {
  /** Taken, whether their listeners wait or read. */
  seats: number
  /** How often it was told that there is something new. */
  readonly told: number
  tell(): void
  /** Resolves when there may be something new, at once when that was told after `told`. */
  idle(waiting: Waiting, told: number): Promise<void>
  /** Ends a wait. */
  leave(waiting: Waiting): void
}

/** Between the first looks after one was told of. */
const soonMs = 10

export function createRoom({ pollMs, clock }: { pollMs: number; clock: Clock }): Room {
  const waiting = new Map<Waiting, () => void>()
  let told = 0
  let waitMs = soonMs
  let pause = new AbortController()
  let polling = false

  function wakeAll(): void {
    waitMs = soonMs
    for (const wake of waiting.values()) wake()
    waiting.clear()
  }

  /** What is told of shows a moment later when an older transaction is still open; after a while only the poll is left. */
  async function poll(): Promise<void> {
    polling = true
    while (waiting.size > 0) {
      pause = new AbortController()
      const { signal } = pause
      await clock.sleep(waitMs, { signal, background: true }).catch(() => {})
      if (signal.aborted || waiting.size === 0) continue
      if (await look()) wakeAll()
      else waitMs = Math.min(waitMs * 2, pollMs)
    }
    polling = false
  }

  /** Whether there may be something new to somebody. */
  async function look(): Promise<boolean> {
    const lost = firstLost(waiting.keys())
    if (lost) {
      const found = await lost.look()
      // What kept one from knowing its place kept the others, too.
      if (found || lost.position) return true
      // It may never know: the next time another one's turn comes first, and who knows its place need not wait for that.
      const wake = waiting.get(lost)
      if (wake && waiting.delete(lost)) waiting.set(lost, wake)
    }
    return (await furthestBehind(waiting.keys())?.look()) !== undefined
  }

  return {
    seats: 0,

    get told() {
      return told
    },

    tell() {
      told++
      wakeAll()
      pause.abort(enough)
    },

    async idle(one, toldBefore) {
      if (told !== toldBefore) return
      await new Promise<void>((resolve) => {
        waiting.set(one, resolve)
        if (!polling) void poll()
      })
    },

    leave(one) {
      waiting.get(one)?.()
      waiting.delete(one)
    },
  }
}

function firstLost(all: Iterable<Waiting>): Waiting | undefined {
  for (const one of all) if (!one.position) return one
  return undefined
}

/** Of those who know their place. */
function furthestBehind(all: Iterable<Waiting>): Waiting | undefined {
  let last: Waiting | undefined
  for (const one of all) if (one.position && (!last || isBefore(one.position, last.position!))) last = one
  return last
}

const isBefore = (a: Position, b: Position): boolean => (a.txid === b.txid ? a.id < b.id : BigInt(a.txid) < BigInt(b.txid))
