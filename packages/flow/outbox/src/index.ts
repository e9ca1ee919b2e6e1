export type { SqlClient, Transaction } from '#internal/sql'
export type { Clock } from '#internal/clock'
export { InboxTooOldError, InboxUnstableIdError, OutboxSchemaError, PublishTimeoutError, StatementTimeoutError } from './errors.ts'
export { createInbox, type Inbox, type InboxMessage, type InboxOptions, type InboxRunner, type Once, type RunnerOptions, type RunTransaction } from './inbox.ts'
export { memoryStore, type MemoryStore } from './memory.ts'
export type { OutboxMessage } from './message.ts'
export { createOutbox, type AddOptions, type Outbox, type OutboxOptions, type Parked, type TransactionPublisher } from './outbox.ts'
export { poolTransaction, type ClientPool, type PoolClient } from './pool.ts'
export type { PublishedMessage, PublishResult, RelayPublisher } from './publish.ts'
export { relay } from './relay.ts'
export type { Alarm, Relay, RelayHooks, RelayOptions, RelayStats } from './relay-types.ts'
export type {
  Held,
  HorizonView,
  InboxStore,
  Lease,
  LeaseStore,
  LeaseView,
  LongTransaction,
  NewRow,
  NextOptions,
  OutboxCounts,
  OutboxStore,
  ParkedRow,
  QueueStore,
  Restored,
  RestoreOptions,
  Row,
  RowStore,
} from './store.ts'
