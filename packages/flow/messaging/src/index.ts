export type { Administration, Peeked, PeekOptions, TopicOptions } from './administration.ts'
export { type Broker, type BrokerHealth, type BrokerOptions, createBroker, type SubscribeOptions } from './broker.ts'
export type { DeadLetters, LetterPage, ListOptions, Mended, ReplayOptions, ReplayOutcome } from './dead-letters.ts'
export type {
  BrokerDriver,
  Capabilities,
  Consumption,
  Delivery,
  GroupInfo,
  LetterMark,
  LogEntry,
  Mark,
  OutgoingMessage,
  Ownership,
  Progress,
  PublishResult,
  Start,
  StoredMessage,
  TopicAdmin,
  TopicLog,
  TopicSpec,
} from './driver.ts'
export { MessagingError, type MessagingErrorCode } from './errors.ts'
export { brokerFromEnv, brokerFromUrl, type BrokerUrl, type FromUrlOptions, parseBrokerUrl } from './from-url.ts'
export type { Hooks, Outcome, Tracing } from './hooks.ts'
export type { HandlerContext } from './job.ts'
export type { DeadLetter } from './letter.ts'
export { createLeases, type GroupView, type Lease, type LeaseOptions, type Leases, type LeaseStore } from './leases.ts'
export { memoryDriver, type MemoryDriver, type MemoryDriverOptions } from './memory.ts'
export { memoryStore, type MemoryStore, type MemoryStoreOptions } from './memory-store.ts'
export { type Codec, json, message, type Message, type MessageBuilder, type MessageInput, raw, type SchemaLike } from './message.ts'
export { partitionOf } from './partition.ts'
export type { BatchResult, Published, PublishOptions } from './publisher.ts'
export type { Pulled, Puller, PullOptions } from './pull.ts'
export type { RetryOptions } from './retry.ts'
export type { Handler, Middleware } from './runner.ts'
export { fromEnv, type MessagingSettings, subscribeOptions, variables } from './settings.ts'
export type { BrokerStats } from './stats.ts'
export type { Subscription, SubscriptionState, SubscriptionStats } from './subscription.ts'
