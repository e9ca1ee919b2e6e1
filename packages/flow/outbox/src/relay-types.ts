import type { Backoff } from '#internal/backoff'
import type { Clock } from '#internal/clock'
import type { SqlClient } from '#internal/sql'
import type { Outbox, Parked } from './outbox.ts'
import type { RelayPublisher } from './publish.ts'
import type { LongTransaction, OutboxCounts } from './store.ts'

/** Something that a person should know. */
export type Alarm =
  /** Rows come in faster than they go out, or a lane waits. */
  | { kind: 'oldest-age'; ageMs: number }
  /** A long transaction keeps deleted rows in the table: nothing is delayed, but the table grows until it ends. Another role's is seen by members of `pg_monitor`. */
  | ({ kind: 'long-transaction' } & LongTransaction)

/** What a hook throws is ignored. */
export interface RelayHooks {
  onPublished?(messages: readonly { id: string; topic: string }[]): void
  onParked?(message: { id: string; topic: string; key: string | undefined; error: Error }): void
  /** The broker or the database failed; the relay goes on. */
  onError?(error: unknown, during: 'publish' | 'database'): void
  /** At most once a minute for each kind, while it lasts. */
  onAlarm?(alarm: Alarm): void
}

/** `db` and `publisher` are needed, the rest has defaults. */
export interface RelayOptions {
  db: SqlClient
  publisher: RelayPublisher
  /** @default `createOutbox()`: tables `public.outbox…` */
  outbox?: Outbox | undefined
  /** Rows read and published at a time; fewer when their bodies come to 4 MiB. @default 500 */
  batch?: number | undefined
  /** How long to wait when there was nothing to do. @default 100 */
  pollMs?: number | undefined
  /** `poll+notify` also wakes up by NOTIFY (outbox option `notify`), through `listen`; polling goes on, since a notification can be lost. @default 'poll' */
  wake?: 'poll' | 'poll+notify' | undefined
  /** Calls `onWake` at each notification on the channel, on a session of its own; resolves to what ends it. */
  listen?: ((channel: string, onWake: () => void) => Promise<() => Promise<unknown>>) | undefined
  /** Consumer groups by topic that the publisher is to make before the first message goes out, so that they miss none. */
  groups?: Readonly<Record<string, readonly string[]>> | undefined
  /** A relay that says nothing for so long loses its partitions to the others. @default 5_000 */
  leaseMs?: number | undefined
  /** Without an answer after this, a message is sent, or a group asked for, again. Longer than the 30 s of `@core-backend/messaging`, which then says it message by message. @default 35_000 */
  publishTimeoutMs?: number | undefined
  /** Failures that count against a row until it is parked; an outage of the broker counts against none. @default 8 */
  maxAttempts?: number | undefined
  /** Waits of a row that failed. @default { initialMs: 100, maxMs: 10_000, multiplier: 2 } */
  retry?: Partial<Backoff> | undefined
  /** Waits while the broker or the database is down: short, so that work resumes as soon as it is back. @default { initialMs: 50, maxMs: 1_000, multiplier: 2 } */
  backoff?: Partial<Backoff> | undefined
  /** What becomes of later messages of a parked row's key. `block-key`: they wait, in order; `skip-key`: they go on without it. @default 'block-key' */
  onPark?: 'block-key' | 'skip-key' | undefined
  /** Age of the oldest row, and of a transaction, at which to raise the alarm. @default 60_000 */
  alarmMs?: number | undefined
  hooks?: RelayHooks | undefined
  clock?: Clock | undefined
  /** @internal For the jitter. */
  random?: (() => number) | undefined
}

/** What one relay has done and is doing; of this process alone. */
export interface RelayStats {
  state: 'new' | 'running' | 'broker-down' | 'database-down' | 'closed'
  /** Confirmed by the broker since the start. */
  published: number
  /** Mean of the last ten seconds. */
  publishedPerSecond: number
  /** Results other than stored. */
  failed: number
  parked: number
  /** Partitions held now. */
  partitions: number
  /** Why broker or database is down; absent while neither is. What was thrown, mostly an `Error`: hand it to your logger as one, since JSON of it is `{}`. */
  error: unknown
}

/** Moves committed messages to the publisher from `start` to `close`; closing twice is fine. */
export interface Relay {
  /** Resolves when the relay is at work, also when the database cannot be reached yet. Rejects with `OutboxSchemaError` when the tables are not there. */
  start(): Promise<void>
  /** Looks now instead of after `pollMs`: to be called after a commit in the same process. */
  wake(): void
  /** What this relay has done since its start. */
  stats(): RelayStats
  /** What waits in the tables, whoever moves it. */
  counts(): Promise<OutboxCounts>
  readonly parked: Parked
  /** `degraded` while broker or database are down, or the oldest row is older than `alarmMs`. */
  check(options?: { signal?: AbortSignal }): Promise<{ status: 'ok' | 'degraded'; state: RelayStats['state']; oldestAgeMs: number }>
  /** Finishes the batch under way, deletes what was confirmed, gives the partitions back. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}
