import { orAborted } from '#internal/abort'
import type { Consumption, Delivery } from '../driver.ts'
import type { Heads } from './heads.ts'
import { createReader, type MessageRow } from './record.ts'

/** Where this process reads in a partition, for one epoch. */
export interface Reading {
  readonly pid: number
  readonly partition: number
  readonly epoch: number
  /** What stands before this was in the hands of an owner that did not let go. */
  readonly suspectBelow: number
  /** Settled by earlier owners beyond the watermark: never handed over, and not to be forgotten when progress is stored. */
  readonly inherited: Set<number>
  /** The next offset to ask for. */
  from: number
  /** What stands before this was asked for: it was read, or is not there. */
  seen: number
  /** Asked for in vain, although its head says that there is more: it was settled already, or the lease had run out at the server. */
  blank: boolean
  /** Read and not handed over yet. */
  ready: Delivery[]
}

export const startReading = (of: Pick<Reading, 'pid' | 'partition' | 'epoch' | 'suspectBelow' | 'from'>, above: readonly number[] = []): Reading => ({
  ...of,
  inherited: new Set(above),
  seen: of.from,
  blank: false,
  ready: [],
})

export interface Asked {
  readonly reading: Reading
  readonly n: number
}

export interface FetchDeps {
  heads: Heads
  /** Where this process reads, by partition. */
  readings: ReadonlyMap<number, Reading>
  rows(asked: readonly Asked[]): Promise<readonly MessageRow[]>
  /** Throws what makes waiting pointless. */
  check(): void
  /** Aborts when `check` begins to throw. */
  over?: AbortSignal
  /** Whether the partition may be handed over now. */
  held(reading: Reading): boolean
  touched(): void
}

/** Bodies of a batch: up to here the next one is read while this one is worked on, and twice of it is the most that is asked for, as far as can be told from the last one. */
const aheadBytes = 4_194_304
const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/**
 * What a group's member and a listener without a group share: asks where there is something, waits where there is not. Under load it is one batch ahead, so that the server
 * works while handlers do; that batch counts as handed over, so it is no larger than what was asked for.
 */
export function createFetch({ heads, readings, rows, check, over, held, touched }: FetchDeps): Consumption['fetch'] {
  const toMessage = createReader()
  let reading: Promise<void> | undefined
  let lastBytes = 0
  /** The caller was told of an outage, and not yet of its end. */
  let failed = false
  let lastAverage = 0

  const read = async (asked: readonly Asked[]): Promise<void> => {
    const ends = asked.map((one) => heads.next(one.reading.pid))
    const byPid = new Map(asked.map((one) => [one.reading.pid, one.reading]))
    const got = await rows(asked)
    lastBytes = 0
    for (const row of got) {
      const of = byPid.get(row.pid)!
      const { partition, epoch } = of
      const offset = Number(row.offset)
      of.from = offset + 1
      of.ready.push({ partition, epoch, position: row.offset, message: toMessage(row), suspect: offset < of.suspectBelow })
      lastBytes += row.value?.length ?? 0
    }
    if (got.length > 0) lastAverage = lastBytes / got.length
    asked.forEach((one, i) => {
      // No rows may also mean that the lease had run out there: then nothing is known.
      if (!held(one.reading)) return
      one.reading.blank = one.reading.ready.length === 0 && ends[i]! > one.reading.from
      one.reading.seen = one.reading.ready.length < one.n ? Math.max(ends[i]!, one.reading.from) : one.reading.from
    })
  }

  const start = (asked: readonly Asked[]): Promise<void> => {
    const done = (): void => {
      reading = undefined
    }
    reading = read(asked)
    reading.then(done, done)
    return reading
  }

  const unread = (wants: ReadonlyMap<number, number>): Asked[] => {
    const asked: Asked[] = []
    const most = Math.max(1, Math.floor((2 * aheadBytes) / (lastAverage || 1) / wants.size))
    for (const [partition, wanted] of wants) {
      const one = readings.get(partition)
      const n = Math.min(wanted, most)
      if (one && n > 0 && one.ready.length === 0 && heads.next(one.pid) > one.seen && held(one)) asked.push({ reading: one, n })
    }
    return asked
  }

  const take = (wants: ReadonlyMap<number, number>): Delivery[] => {
    const taken: Delivery[] = []
    for (const [partition, n] of wants) {
      const one = readings.get(partition)
      if (!one || one.ready.length === 0 || !held(one)) continue
      if (one.ready.length <= n) {
        for (const delivery of one.ready) taken.push(delivery)
        one.ready = []
      } else for (const delivery of one.ready.splice(0, n)) taken.push(delivery)
    }
    return taken
  }

  /** Asks for the next batch; the request leaves before the caller works on this one. */
  const readAhead = async (wants: ReadonlyMap<number, number>): Promise<void> => {
    if (reading || lastBytes > aheadBytes) return
    const asked = unread(wants).filter((one) => one.reading.from >= one.reading.suspectBelow)
    if (asked.length === 0) return
    // If this fails, the next fetch asks again, and fails for all to see.
    start(asked).catch(() => undefined)
    await nextTurn()
  }

  return async (wants, { signal }) => {
    for (;;) {
      check()
      if (signal.aborted) return []
      const taken = take(wants)
      if (taken.length > 0) {
        heads.busy()
        touched()
        await readAhead(wants)
        return taken
      }
      const asked = reading ? [] : unread(wants)
      if (reading || asked.length > 0) {
        // What is under way when the caller gives up is there for its next call.
        await orAborted(reading ?? start(asked), signal).catch((error: unknown) => {
          if (!signal.aborted) throw error
        })
        continue
      }
      if (failed && !heads.failing) {
        // It works again, and the caller knows only that it did not.
        failed = false
        return []
      }
      const pids = [...wants.keys()].map((partition) => readings.get(partition)?.pid).filter((pid) => pid !== undefined)
      const why = await heads.wait(pids, over ? AbortSignal.any([signal, over]) : signal).catch((error: unknown) => {
        failed = true
        throw error
      })
      if (why === 'news') continue
      if (why === 'recovered') failed = false
      check()
      return []
    }
  }
}
