import { setImmediate as nextTurn } from 'node:timers/promises'
import { deferred, type Deferred } from '#internal/abort'
import { systemClock, type Clock } from '#internal/clock'
import { checkOptions, isFunction } from '#internal/options'
import type { SqlClient, Transaction } from '#internal/sql'
import { memoryChecks } from './options.ts'
import { underlying } from './side-by-side.ts'
import { restoreRows, type Held, type InboxStore, type Lease, type NewRow, type OutboxStore, type Row } from './store.ts'

/** An outbox and an inbox in memory, with transactions that roll back. For unit tests: it outlives no process and runs no SQL. */
export interface MemoryStore extends SqlClient {
  readonly outbox: OutboxStore
  readonly inbox: InboxStore
  /** Commits when `fn` resolves, rolls back when it throws. Transactions run side by side and see what was committed. */
  transaction<T>(fn: (tx: Transaction) => Promise<T>): Promise<T>
  /** Refuses: there is no SQL here. The store passes for a client so that `relay({ db: store })` reads as with a database. */
  query(text: string): Promise<never>
}

type StoredRow = Omit<Row, 'ageMs'> & { addedAt: number }
type HeldRow = StoredRow & {
  state: 'delayed' | 'parked' | 'released' | 'blocked'
  dueAt: number | undefined
  attempts: number
  error: { code: string; message: string }
  heldAt: number
}

interface Pending {
  rows: (StoredRow & { dueAt: number | undefined })[]
  records: string[]
}

/** Makes an empty store. `clock` is its "server's" clock, by which leases end and rows fall due. */
export function memoryStore(options: { clock?: Clock; partitions?: number } = {}): MemoryStore {
  checkOptions('memoryStore', options, memoryChecks)
  const { clock = systemClock, partitions = 16 } = options
  let sequence = 0
  let rows: StoredRow[] = []
  let held: HeldRow[] = []
  const leases = Array.from({ length: partitions }, (_, partition) => ({ partition, epoch: 0, owner: '', until: -Infinity }))
  const relays = new Map<string, number>()
  /** Who recorded (message, handler), and when; while its transaction runs, what to wait for. */
  const records = new Map<string, { at: number; open: Deferred<void> | undefined }>()
  const open = new Map<SqlClient, Pending>()

  const query = (text: string): Promise<never> => Promise.reject(new TypeError(`The memory store runs no SQL: ${text.slice(0, 80)}`))

  function pendingOf(tx: SqlClient): Pending {
    const pending = open.get(underlying(tx))
    if (!pending) throw new TypeError('Not a transaction of this store, or one that has ended')
    return pending
  }

  /** Rows are kept in the order of their ids, whichever transaction commits first. */
  function place(row: StoredRow): void {
    rows.splice(rows.findLastIndex((other) => other.id < row.id) + 1, 0, row)
  }

  function forget(keys: readonly string[]): void {
    for (const key of keys) {
      const record = records.get(key)
      records.delete(key)
      record?.open?.resolve()
    }
  }

  async function transaction<T>(fn: (tx: Transaction) => Promise<T>): Promise<T> {
    isFunction(fn, 'transaction: fn')
    const tx: Transaction = { query }
    const pending: Pending = { rows: [], records: [] }
    open.set(tx, pending)
    try {
      const result = await fn(tx)
      for (const { dueAt, ...row } of pending.rows) {
        if (dueAt === undefined) place(row)
        else held.push({ ...row, state: 'delayed', dueAt, attempts: 0, error: { code: '', message: '' }, heldAt: clock.now() })
      }
      for (const key of pending.records) {
        const record = records.get(key)!
        record.open?.resolve()
        record.open = undefined
      }
      return result
    } catch (error) {
      forget(pending.records)
      throw error
    } finally {
      open.delete(tx)
    }
  }

  function toStored(row: NewRow): StoredRow {
    const lane = row.key === undefined ? `/${row.messageId}` : `${row.topic}/${row.key}`
    return {
      id: ++sequence,
      partition: hash(lane) % partitions,
      lane,
      messageId: row.messageId,
      topic: row.topic,
      key: row.key,
      value: row.value.slice(),
      headers: row.headers === undefined ? {} : (JSON.parse(row.headers) as Record<string, string>),
      timestamp: row.timestamp ?? clock.now(),
      dedupeId: row.dedupeId,
      addedAt: clock.now(),
    }
  }

  const free = (lease: { owner: string; until: number }): boolean => lease.owner === '' || lease.until <= clock.now()
  const holds = (given: readonly Lease[], partition: number): boolean =>
    given.some((lease) => lease.partition === partition && leases[partition]!.epoch === lease.epoch)
  const parkedOf = (ids: readonly number[]): HeldRow[] => held.filter((row) => row.state === 'parked' && ids.includes(row.id))

  const outbox: OutboxStore = {
    rows: {
      schema: () => '',
      async add(tx, added) {
        const pending = pendingOf(tx)
        for (const row of added) pending.rows.push({ ...toStored(row), dueAt: row.deliverAt })
      },
      async counts() {
        const of = (...states: HeldRow['state'][]): number => held.filter((row) => states.includes(row.state)).length
        const oldest = rows.reduce((earliest, row) => Math.min(earliest, row.addedAt), Infinity)
        return {
          pending: rows.length,
          oldestAgeMs: rows.length === 0 ? 0 : clock.now() - oldest,
          delayed: of('delayed'),
          parked: of('parked'),
          blocked: of('blocked', 'released'),
        }
      },
      async listParked(_, after, limit) {
        return held
          .filter((row) => row.state === 'parked' && row.id > after)
          .toSorted((a, b) => a.id - b.id)
          .slice(0, limit)
          .map(({ id, messageId, topic, key, lane, attempts, error, heldAt }) => {
            const blocked = key === undefined ? 0 : held.filter((row) => row.state === 'blocked' && row.lane === lane).length
            return { id, messageId, topic, key, attempts, error, parkedAt: heldAt, blocked }
          })
      },
      async releaseParked(_, ids) {
        return parkedOf(ids).map((row) => {
          row.state = 'released'
          return row.id
        })
      },
      async discardParked(_, ids) {
        const gone = parkedOf(ids)
        held = held.filter((row) => !gone.includes(row))
        return gone.map((row) => row.id)
      },
    },

    leases: {
      async renew(_, relay, leaseMs) {
        relays.set(relay, clock.now() + leaseMs)
        for (const [name, until] of relays) if (until <= clock.now()) relays.delete(name)
        const mine = leases.filter((lease) => lease.owner === relay)
        for (const lease of mine) lease.until = clock.now() + leaseMs
        return {
          relays: relays.size,
          mine: mine.map(({ partition, epoch }) => ({ partition, epoch })),
          free: leases.filter(free).map((lease) => lease.partition),
          partitions,
        }
      },
      async claim(_, relay, leaseMs, wanted) {
        const taken = leases.filter((lease) => wanted.includes(lease.partition) && free(lease))
        return taken.map((lease) => {
          Object.assign(lease, { owner: relay, epoch: lease.epoch + 1, until: clock.now() + leaseMs })
          return { partition: lease.partition, epoch: lease.epoch }
        })
      },
      async release(_, relay, given, leaving) {
        if (leaving) relays.delete(relay)
        for (const lease of leases) if (lease.owner === relay && holds(given, lease.partition)) Object.assign(lease, { owner: '', until: -Infinity })
      },
    },

    queue: {
      async next(_, { done, from, upTo = Infinity, except, limit, limitBytes }) {
        await nextTurn() // As a database would: a relay with much to do must leave the process time for timers.
        const gone = new Set(done.map((row) => row.id))
        rows = rows.filter((row) => !gone.has(row.id))
        const lows = new Map(from.map(({ partition, low }) => [partition, low]))
        const [lanes, topics] = [new Set(except.lanes), new Set(except.topics)]
        const found = rows
          .filter((row) => row.id > (lows.get(row.partition) ?? Infinity) && row.id <= upTo && !lanes.has(row.lane) && !topics.has(row.topic))
          .slice(0, limit)
        let bytes = 0
        const last = found.findIndex((row) => (bytes += row.value.length) >= limitBytes)
        return found
          .slice(0, last === -1 ? limit : last + 1)
          .map(({ addedAt, ...row }) => ({ ...row, headers: { ...row.headers }, ageMs: clock.now() - addedAt }))
      },
      async hold(_, given, moving) {
        const moved: number[] = []
        for (const move of moving) {
          const row = rows.find((candidate) => candidate.id === move.id)
          if (!row || !holds(given, row.partition)) continue
          rows = rows.filter((other) => other !== row)
          held.push({ ...row, state: move.state, dueAt: undefined, heldAt: clock.now(), ...reason(move) })
          moved.push(row.id)
        }
        return moved
      },
      async restore(_, given, { skip }) {
        const ours = held.filter((row) => holds(given, row.partition)).toSorted((a, b) => a.id - b.id)
        const aside = ours.filter((row) => row.dueAt === undefined)
        const parkedLanes = new Set(skip ? [] : aside.filter((row) => row.state === 'parked').map((row) => row.lane))
        const due = ours
          .filter((row) => row.dueAt !== undefined && row.dueAt <= clock.now())
          .toSorted((a, b) => a.dueAt! - b.dueAt!)
          .slice(0, restoreRows)
        const freed = aside.filter((row) => row.state !== 'parked' && !parkedLanes.has(row.lane)).slice(0, skip ? Infinity : restoreRows)
        const moving = new Set([...due, ...freed])
        held = held.filter((row) => !moving.has(row))
        for (const row of freed) place(bare(row))
        for (const row of due) place({ ...bare(row), id: ++sequence, timestamp: Math.max(row.timestamp, row.dueAt!), addedAt: clock.now() })
        const blocked = new Map<string, number>()
        for (const row of skip ? [] : aside) if (row.key !== undefined && !moving.has(row) && !blocked.has(row.lane)) blocked.set(row.lane, row.id)
        return { moved: due.length + freed.length, restored: [...new Set(freed.map((row) => row.partition))], blocked }
      },
      async horizon() {
        // One name for all who are in the middle of something: it only says that somebody is.
        return { origin: 'memory', last: sequence, writers: [...open.values()].some((pending) => pending.rows.length > 0) ? ['memory'] : [] }
      },
      longest: () => Promise.resolve(undefined),
    },
  }

  const inbox: InboxStore = {
    schema: () => '',
    alive: () => Promise.resolve(),
    async nested(tx, fn) {
      const pending = pendingOf(tx)
      const [rowsBefore, recordsBefore] = [pending.rows.length, pending.records.length]
      try {
        return await fn()
      } catch (error) {
        pending.rows.length = rowsBefore
        forget(pending.records.splice(recordsBefore))
        throw error
      }
    },
    async record(tx, messageId, handlers, timestamp, retentionMs) {
      const pending = pendingOf(tx)
      const recorded: string[] = []
      for (const handler of handlers) {
        const key = JSON.stringify([messageId, handler])
        for (let known; (known = records.get(key)?.open) && !pending.records.includes(key);) await known.promise
        if (records.has(key)) continue
        records.set(key, { at: clock.now(), open: deferred() })
        pending.records.push(key)
        recorded.push(handler)
      }
      return { recorded, old: timestamp !== undefined && timestamp < clock.now() - retentionMs }
    },
    async sweep(_, ageMs, limit) {
      const old = [...records].filter(([, record]) => record.at < clock.now() - ageMs && !record.open).slice(0, limit)
      forget(old.map(([key]) => key))
      return old.length
    },
  }

  return { outbox, inbox, transaction, query }
}

function reason(move: Held): { attempts: number; error: { code: string; message: string } } {
  return move.state === 'parked' ? { attempts: move.attempts, error: move.error } : { attempts: 0, error: { code: '', message: '' } }
}

function bare({ state: _state, dueAt: _dueAt, attempts: _attempts, error: _error, heldAt: _heldAt, ...row }: HeldRow): StoredRow {
  return row
}

/** FNV-1a. */
function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193) >>> 0
  return h
}
