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
      const last = furthestBehind(waiting.keys())
      if (signal.aborted || !last) continue
      const placed = last.position !== undefined
      const found = await last.look()
      // What kept one from knowing its place kept the others, too.
      if (found || (!placed && last.position)) wakeAll()
      else waitMs = Math.min(waitMs * 2, pollMs)
    }
    polling = false
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

function furthestBehind(all: Iterable<Waiting>): Waiting | undefined {
  let last: Waiting | undefined
  for (const one of all) {
    if (!one.position) return one
    if (!last || isBefore(one.position, last.position!)) last = one
  }
  return last
}

const isBefore = (a: Position, b: Position): boolean => (a.txid === b.txid ? a.id < b.id : BigInt(a.txid) < BigInt(b.txid))
