import type { HorizonView, Row } from './store.ts'

export interface Horizon {
  /** Takes in the highest id given out and the transactions that may still bring one. */
  look(view: HorizonView): void
  /** The id above which to read. */
  low(partition: number): number
  /** Takes in what a read of these partitions from their `low` returned; `full` when the limit cut it off. */
  read(partitions: readonly number[], rows: readonly Pick<Row, 'id' | 'partition'>[], full: boolean): void
  /** The next step through a backlog that is left out, for what else may stand in it. */
  walk(): Step
  /** Takes in the first id that it found, if any. Whether the walk is over; it begins again where nothing can appear behind it any more. */
  walked(step: Step, first: number | undefined): boolean
  /** Less is left out than before. */
  walkAnew(): void
  /** Old ids may have come up again here. */
  reset(partition: number): void
  /** Whatever was learnt may be of another server by now. */
  forget(): void
}

/** From an id (exclusive) to another. */
export interface Step {
  readonly low: number
  readonly upTo: number
}

/** Ids of one step. */
const stride = 100_000

/** How many looks until everything is read from the start again: for rows that were put in by hand with an old id. */
const looksPerSweep = 120

/**
 * From where to read. Deleted rows stay at the head of the index until vacuum may remove them, which a long transaction anywhere in the database
 * forbids; reading past all of them each time would make the relay slower and slower. An id is behind us for good once every transaction that could have
 * taken it has ended, and those hold a lock on the table; so: take the highest id, then the lock's holders, and when the last of these is gone, no row at or
 * below that id can appear. This is a hint only: it starts at 0 in every process, and again when the ids or the names of transactions may have: nothing is stored.
 */
export function createHorizon(): Horizon {
  const lows = new Map<number, number>()
  let previous: HorizonView | undefined
  let candidate: { last: number; writers: readonly string[] } | undefined
  let safe = 0
  let looks = 0
  let place = 0

  function forget(): void {
    lows.clear()
    previous = undefined
    candidate = undefined
    safe = 0
    place = 0
  }

  return {
    look(view) {
      const { origin, last, writers } = view
      if (++looks % looksPerSweep === 0) {
        lows.clear()
        place = 0
      }
      if (previous && (origin !== previous.origin || last < previous.last)) forget()
      // `previous` was read a look ago, so certainly before these writers were.
      if (candidate) candidate = { last: candidate.last, writers: candidate.writers.filter((writer) => writers.includes(writer)) }
      else if (previous) candidate = { last: previous.last, writers }
      if (candidate?.writers.length === 0) {
        safe = candidate.last
        candidate = undefined
      }
      previous = view
    },
    low: (partition) => lows.get(partition) ?? 0,
    read(partitions, rows, full) {
      const first = new Map<number, number>()
      for (const row of rows) if (!first.has(row.partition)) first.set(row.partition, row.id)
      const end = full ? rows.at(-1)!.id : Infinity
      for (const partition of partitions) lows.set(partition, Math.max(0, Math.min(safe, (first.get(partition) ?? end) - 1)))
    },
    walk: () => ({ low: place, upTo: place + stride < (previous?.last ?? 0) ? place + stride : Number.MAX_SAFE_INTEGER }),
    walked({ upTo }, first) {
      const over = first !== undefined || upTo === Number.MAX_SAFE_INTEGER
      place = over ? Math.min(safe, first === undefined ? upTo : first - 1) : upTo
      return over
    },
    walkAnew: () => void (place = 0),
    reset(partition) {
      lows.delete(partition)
      place = 0
    },
    forget,
  }
}
