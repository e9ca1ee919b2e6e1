/** A message to publish, as every broker of this project takes it. */
export interface OutgoingMessage {
  id?: string
  topic: string
  key?: string
  value: Uint8Array
  /** Names in lower case. */
  headers?: Record<string, string>
  /** Ms since the epoch. */
  timestamp?: number
}

/** A message as a broker hands it over. */
export interface ReceivedMessage {
  readonly id: string
  readonly topic: string
  readonly key: string | undefined
  readonly value: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  /** Ms since the epoch, set by the publisher. */
  readonly timestamp: number
  /** Whether a redelivery carries the same id. */
  readonly idStable: boolean
  /** Headers whose names the broker's own grammar refuses, as `cloudEvents:type` of AMQP. */
  readonly rawHeaders?: readonly (readonly [name: string, value: Uint8Array])[] | undefined
}

/** What of a broker's handler context is used here. */
export interface DeliveryContext {
  /** Aborts at shutdown and when the delivery is no longer this process's. */
  readonly signal?: AbortSignal
  /** Absent on a broadcast, which has no dead letters. */
  readonly group?: string | undefined
  /** Sends the message to the dead letters once the handler returns. `headers` come back with a replay. */
  deadLetter?(reason: string, options?: { error?: Error; headers?: Record<string, string> }): void
}

/** Result i of a batch belongs to message i. */
export interface PublishResult {
  readonly status: 'stored' | 'rejected' | 'unknown'
  readonly error?: Error
}

/** Anything that takes messages away: a broker, an outbox in a transaction, a spy. */
export interface MessagePublisher {
  /** Resolves once the message is stored. */
  publish(message: OutgoingMessage, options?: { signal?: AbortSignal }): Promise<unknown>
  /** Without it a batch is published one message after the other. */
  publishBatch?(messages: readonly OutgoingMessage[], options?: { signal?: AbortSignal }): Promise<readonly PublishResult[]>
}

/** Options of a subscription; what stands here beside these is handed on as it is. */
export interface SubscribeOptions {
  group?: string
  concurrency?: number
  order?: 'key' | 'partition' | 'none'
  retry?: { maxAttempts?: number }
  handlerTimeoutMs?: number
  drainMs?: number
  signal?: AbortSignal
}

/** Anything that hands messages over: a broker. */
export interface MessageSubscriber {
  subscribe(
    topics: readonly string[],
    options: SubscribeOptions,
    handler: (message: ReceivedMessage, ctx: DeliveryContext) => Promise<void>,
  ): Promise<{ close(): Promise<void> }>
}
