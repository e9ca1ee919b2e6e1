import type { SqlClient, Transaction } from '#internal/sql'

/** A checked message on its way into the table. */
export interface NewRow {
  messageId: string
  topic: string
  key: string | undefined
  value: Uint8Array
  /** JSON. */
  headers: string | undefined
  timestamp: number | undefined
  dedupeId: string | undefined
  deliverAt: number | undefined
}

/** A committed message that waits for the broker. */
export interface Row {
  /** Order within a lane; taken when `add` ran. */
  id: number
  /** The lane's hash, modulo the number of partitions. */
  partition: number
  /** What is published in sequence: topic and key; a message without a key is a lane of its own, which is no other's whatever its id. */
  lane: string
  messageId: string
  topic: string
  key: string | undefined
  value: Uint8Array
  headers: Record<string, string>
  timestamp: number
  dedupeId: string | undefined
  /** Ms since `add`, by the store's clock. */
  ageMs: number
}

/** The right to move one partition's rows. Each change of hands raises `epoch`. */
export interface Lease {
  partition: number
  epoch: number
}

/** A row that no attempt could publish. */
export interface ParkedRow {
  id: number
  messageId: string
  topic: string
  key: string | undefined
  attempts: number
  /** Why: code and message of the last error. */
  error: { code: string; message: string }
  /** Ms since the epoch. */
  parkedAt: number
  /** Later rows of its key that wait behind it. */
  blocked: number
}

/** What waits in the tables. */
export interface OutboxCounts {
  /** Ready to be published. */
  pending: number
  /** Age of the oldest pending row in ms, 0 when there is none. */
  oldestAgeMs: number
  /** Waiting for their `deliverAt`. */
  delayed: number
  parked: number
  /** Waiting behind a parked row of their key. */
  blocked: number
}

/** Rows coming and being looked at. Every method may run in any process. */
export interface RowStore {
  /** What makes the tables, as one SQL command; running it twice, or from several processes at once, is fine. */
  schema(): string
  /** Within the caller's transaction: rolled back with it. Takes the rows' ids in the order given. */
  add(tx: Transaction, rows: readonly NewRow[]): Promise<void>
  counts(db: SqlClient): Promise<OutboxCounts>
  /** Parked rows with an id above `after`, oldest first. */
  listParked(db: SqlClient, after: number, limit: number): Promise<readonly ParkedRow[]>
  /** Marks parked rows as free to be tried again, with those behind them, in their old order. Returns those that were parked. */
  releaseParked(db: SqlClient, ids: readonly number[]): Promise<readonly number[]>
  /** Deletes parked rows, which frees those behind them. Returns those that were parked. */
  discardParked(db: SqlClient, ids: readonly number[]): Promise<readonly number[]>
}

/** What one look at the partitions showed. */
export interface LeaseView {
  /** Relays alive, this one included. */
  relays: number
  mine: readonly Lease[]
  /** Nobody's, or of a relay that did not renew in time. */
  free: readonly number[]
  /** Of all partitions. */
  partitions: number
}

/** Who moves which partition. Judged by the store's clock alone. */
export interface LeaseStore {
  /** Says that `relay` is alive and extends its leases by `leaseMs`; a lease that another has taken is not extended. */
  renew(db: SqlClient, relay: string, leaseMs: number): Promise<LeaseView>
  /** Takes those of `partitions` that are still free, each under a higher epoch. */
  claim(db: SqlClient, relay: string, leaseMs: number, partitions: readonly number[]): Promise<readonly Lease[]>
  /** Gives leases back at once, those that were taken since excepted; with `leaving` the relay is no longer counted. */
  release(db: SqlClient, relay: string, leases: readonly Lease[], leaving: boolean): Promise<void>
}

/** What to delete, and what to read then. */
export interface NextOptions {
  /** Confirmed rows: deleted in the same step. */
  done: readonly Pick<Row, 'id' | 'partition'>[]
  /** Where to look, and from which id (exclusive). */
  from: readonly { partition: number; low: number }[]
  /** And up to which (inclusive), whatever is left out until there. Absent: to the end, or to where a store no longer likes to read what it leaves out. */
  upTo?: number | undefined
  /** Lanes, and whole topics, to leave out. */
  except: { readonly lanes: readonly string[]; readonly topics: readonly string[] }
  limit: number
  /** Bytes of bodies: the row that reaches them is the last. */
  limitBytes: number
  /** There should be fewer than `limit`: a store may look in another way then. @default false */
  few?: boolean | undefined
}

/** A row to be set aside: poison, or what stands behind it. */
export type Held = Pick<Row, 'id' | 'partition'> & ({ state: 'blocked' } | { state: 'parked'; attempts: number; error: { code: string; message: string } })

/** A transaction that keeps deleted rows from being removed. */
export interface LongTransaction {
  pid: number
  application: string
  state: string
  ageMs: number
}

/** Which of the freed rows come back. */
export interface RestoreOptions {
  readonly skip: boolean
  /** The `blocked` of the last call under these leases, and of rows parked since. Undefined when there was none: then any lane may have rows aside. */
  readonly known: ReadonlyMap<string, number> | undefined
}

/** What came back, and what stays aside. */
export interface Restored {
  /** How many rows came back. */
  readonly moved: number
  /** Partitions in which old ids reappeared. */
  readonly restored: readonly number[]
  /** Lanes that stay blocked, and from which id: what is older came back and may go, what is younger must wait. */
  readonly blocked: ReadonlyMap<string, number>
}

/** From where nothing old can appear any more. */
export interface HorizonView {
  /** With another one ids may begin anew, and a writer may have another name. */
  readonly origin: string
  /** The highest id given out so far. */
  readonly last: number
  /** Who is in the middle of a transaction that wrote to the table, a prepared one included. */
  readonly writers: readonly string[]
}

/** Due rows, and freed ones, that one `restore` brings back at most. */
export const restoreRows = 1_000

/** What the relay does to rows. */
export interface QueueStore {
  /** Deletes what is done, then returns visible rows by id. `done` needs no lease: a confirmed row may go whoever says so. */
  next(db: SqlClient, options: NextOptions): Promise<readonly Row[]>
  /** Sets rows aside, as far as the lease still holds. Returns the ids that were moved. */
  hold(db: SqlClient, leases: readonly Lease[], rows: readonly Held[]): Promise<readonly number[]>
  /**
   * Under the leases: brings due rows (the first due first) back at the end of their lane, and released rows with those behind them at their old place, at most
   * `restoreRows` of each. With `skip` no lane is kept back, and all that was freed comes at once: what is newer must not go first.
   */
  restore(db: SqlClient, leases: readonly Lease[], options: RestoreOptions): Promise<Restored>
  horizon(db: SqlClient): Promise<HorizonView>
  /** The longest transaction of at least `ageMs`, if the store has any. */
  longest(db: SqlClient, ageMs: number): Promise<LongTransaction | undefined>
}

/** Where an outbox lives: PostgreSQL or memory. */
export interface OutboxStore {
  readonly rows: RowStore
  readonly leases: LeaseStore
  readonly queue: QueueStore
}

/** Where an inbox lives. */
export interface InboxStore {
  schema(): string
  /** Rejects when a statement of the transaction has failed, so that it can only roll back. */
  alive(tx: Transaction): Promise<unknown>
  /** Runs `fn` so that what it did in the transaction is undone when it throws, and the transaction can go on. */
  nested<T>(tx: Transaction, fn: () => Promise<T>): Promise<T>
  /**
   * Records the message for those handlers that have no record of it, in the order given, and names them. Waits for a concurrent transaction that records the same.
   * `old`: `timestamp` lies further back than `retentionMs`.
   */
  record(
    tx: Transaction,
    messageId: string,
    handlers: readonly string[],
    timestamp: number | undefined,
    retentionMs: number,
  ): Promise<{ recorded: readonly string[]; old: boolean }>
  /** Deletes at most `limit` records older than `ageMs`. Returns how many. */
  sweep(db: SqlClient, ageMs: number, limit: number): Promise<number>
}
