import { type SqlClient, type Transaction, assertTransaction } from '#internal/sql'
import { systemClock, type Clock } from '#internal/clock'
import { checkOptions } from '#internal/options'
import { toRow, type OutboxMessage } from './message.ts'
import { addChecks, isClient, isIds, listChecks, outboxChecks } from './options.ts'
import { postgresStore } from './postgres.ts'
import type { OutboxCounts, OutboxStore, ParkedRow } from './store.ts'

/** Everything has a default. */
export interface OutboxOptions {
  /** Where the tables stand. Letters, digits, underscores. @default 'public' */
  schema?: string | undefined
  /** The main table; the others are named after it (`_held`, `_leases`, `_relays`). @default 'outbox' */
  table?: string | undefined
  /** Into how many parts the keys are hashed: the most relays that can share the work. A power of two up to 64, fixed when the tables are made. @default 16 */
  partitions?: number | undefined
  /** Wake relays by NOTIFY on commit. It costs a lock that all committing transactions of the database share. @default false */
  notify?: boolean | undefined
  /** Largest message with its key and headers. @default 1_000_000 */
  maxMessageBytes?: number | undefined
  /** Ends of topics that the broker keeps for itself: those of `@core-backend/messaging` unless you say otherwise. @default ['.retry', '.dlq'] */
  reservedSuffixes?: readonly string[] | undefined
  /** For the ids of messages that have none. */
  clock?: Clock | undefined
  /** Instead of PostgreSQL: a memory store, or your own. */
  store?: OutboxStore | undefined
}

/** For all messages of one `add`. */
export interface AddOptions {
  /** Instead of the messages' own key. */
  key?: string | undefined
  /** For messages that say nothing themselves, ms since the epoch. */
  deliverAt?: number | undefined
}

/** Rows that could not be published. Safe to use from any process; the relays act on it at their next look. */
export interface Parked {
  /** Oldest first, `limit` (default 100) at a time, from above the id `after`. */
  list(options?: { after?: number; limit?: number }): Promise<readonly ParkedRow[]>
  /** Lets rows be tried again: they, then what waited behind them, in the old order. Returns the ids that were parked. */
  release(ids: readonly number[]): Promise<readonly number[]>
  /** Deletes rows and lets what waited behind them go on. Returns the ids that were parked. */
  discard(ids: readonly number[]): Promise<readonly number[]>
}

/** Takes messages away as a broker would, into a transaction. */
export interface TransactionPublisher {
  /** Resolves once the row is written; it counts when the transaction commits. */
  publish(message: OutboxMessage): Promise<{ id: string }>
  publishBatch(messages: readonly OutboxMessage[]): Promise<readonly { status: 'stored'; id: string }[]>
  /** Nothing to close: the transaction is the caller's. */
  close(): Promise<void>
}

/** Adds messages to transactions, and looks after those that wait. */
export interface Outbox {
  /**
   * Writes messages within the caller's transaction; they are published after it commits, and never when it rolls back. Returns their ids.
   * Throws `TypeError` for a pool, for a malformed message and for a name that is no part of one, `RangeError` for one that is too large, both before anything is sent; `OutboxSchemaError` when the tables are not there.
   */
  add(tx: Transaction, messages: OutboxMessage | readonly OutboxMessage[], options?: AddOptions): Promise<readonly string[]>
  // Of a call that fits no line the compiler explains the last: in the words of one message, not of an array's methods.
  add(tx: Transaction, message: OutboxMessage, options?: AddOptions): Promise<readonly string[]>
  /** The transaction as a publisher, for what publishes and should not know of the outbox. */
  publisher(tx: Transaction): TransactionPublisher
  /** One SQL command that makes the tables; may be run again, and by several processes at once. */
  schema(): string
  counts(db: SqlClient): Promise<OutboxCounts>
  parked(db: SqlClient): Parked
  /** @internal What the relay works on. */
  readonly store: OutboxStore
  /** The channel on which NOTIFY tells of new rows. */
  readonly channel: string
}

/** An outbox: messages that commit together with the data they speak of. Opens nothing and holds nothing. */
export function createOutbox(options: OutboxOptions = {}): Outbox {
  checkOptions('createOutbox', options, outboxChecks)
  const { schema = 'public', table = 'outbox', partitions = 16, notify = false, clock = systemClock } = options
  const { maxMessageBytes: maxBytes = 1_000_000, reservedSuffixes = ['.retry', '.dlq'] } = options
  const store = options.store ?? postgresStore({ schema, table, partitions, notify })
  const { rows } = store

  async function add(tx: Transaction, messages: OutboxMessage | readonly OutboxMessage[], options: AddOptions = {}): Promise<readonly string[]> {
    assertTransaction(tx)
    checkOptions('add', options, addChecks)
    const list: readonly OutboxMessage[] = Array.isArray(messages) ? messages : [messages as OutboxMessage]
    const added = list.map((message) => toRow(message, options, clock.now(), { maxBytes, reservedSuffixes }))
    await rows.add(tx, added)
    return added.map((row) => row.messageId)
  }

  return {
    add,
    publisher: (tx) => {
      assertTransaction(tx)
      return {
        publish: async (message) => ({ id: (await add(tx, message))[0]! }),
        publishBatch: async (messages) => (await add(tx, messages)).map((id) => ({ status: 'stored', id })),
        close: async () => {},
      }
    },
    schema: rows.schema,
    counts: async (db) => {
      isClient(db, 'counts: db')
      return rows.counts(db)
    },
    parked: (db) => {
      isClient(db, 'parked: db')
      return {
        list: async (options = {}) => {
          checkOptions('list', options, listChecks)
          const { after = 0, limit = 100 } = options
          return rows.listParked(db, after, limit)
        },
        release: async (ids) => {
          isIds(ids, 'release: ids')
          return rows.releaseParked(db, ids)
        },
        discard: async (ids) => {
          isIds(ids, 'discard: ids')
          return rows.discardParked(db, ids)
        },
      }
    },
    store,
    channel: `${schema}.${table}`,
  }
}
