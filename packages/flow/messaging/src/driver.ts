/**
 * The ports that a broker driver fills. The engine owns concurrency, order, retries, delays that a broker lacks, dead letters, drain and
 * statistics; a driver stores, hands over, settles, administers and answers a ping. Every line below is a case in `contract.ts`.
 */
export interface BrokerDriver<C extends Capabilities = Capabilities> {
  /** `memory`, `postgres`, … */
  readonly name: string
  readonly capabilities: C
  readonly admin: TopicAdmin
  readonly log: TopicLog
  /**
   * Result i belongs to message i. Never drops silently; a batch's messages of one partition are stored in the order given.
   * With `batchOrder`, after a message of a key failed no later message of that key in the batch is stored. When `signal` aborts, nobody waits any more:
   * what has no answer by then is `unknown`. Throws only for misuse or when closed.
   */
  publish(messages: readonly OutgoingMessage[], options: { signal: AbortSignal }): Promise<readonly PublishResult[]>
  /** Joins `group` on `topic`, both of which exist; without a group: every partition, from the latest message, nothing kept. */
  consume(topic: string, group: string | undefined, owner: Ownership): Promise<Consumption>
  /** Resolves when the broker answers; changes nothing there. `details` go into the health report. */
  ping(options: { signal: AbortSignal }): Promise<{ readonly details?: Readonly<Record<string, string | number | boolean>> }>
  /** Lets go of what the driver opened itself, never of a client that was passed in. Twice is fine. */
  close(): Promise<void>
}

/** What a broker can do; the engine emulates what honestly can be, and refuses the rest with `ERR_MESSAGING_UNSUPPORTED`. */
export interface Capabilities {
  /** Messages stay readable after they were handled: `peek`, `resetGroup`, `start: 'earliest'`. */
  readonly history: boolean
  /** Delayed messages become visible at most `resolutionMs` late and at most `maxMs` ahead. Absent: no delays. */
  readonly delay: { readonly resolutionMs: number; readonly maxMs: number } | undefined
  /** How long a `dedupeId` is remembered. Absent: not at all. */
  readonly dedupe: { readonly windowMs: number } | undefined
  /** Who refuses a settlement of a partition that was taken over. */
  readonly fencing: 'server' | 'client'
  /** See `publish`. Without it the engine sends one unconfirmed message a key at a time. */
  readonly batchOrder: boolean
  /** Whether `settle` needs the watermark (logs) or each message (queues). */
  readonly settles: 'watermark' | 'each'
  /** Held messages must be extended at least this often. Absent: ownership alone keeps them. */
  readonly ackDeadlineMs: number | undefined
  /** The largest message with key and headers that the broker takes. */
  readonly maxMessageBytes: number
  /** The largest call of `publish` that helps, and how many may be under way at once. */
  readonly publish: { readonly maxBatch: number; readonly inFlight: number }
}

/** A message as a driver stores it: checked, complete, its headers with the engine's own `cb-` ones. */
export interface OutgoingMessage {
  readonly id: string
  readonly topic: string
  readonly key: string | undefined
  readonly value: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  readonly timestamp: number
  readonly tombstone: boolean
  readonly deliverAt: number | undefined
  readonly dedupeId: string | undefined
  readonly rawKey: Uint8Array | undefined
  readonly rawHeaders: ReadonlyArray<readonly [name: string, value: Uint8Array]> | undefined
}

/** `stored`: confirmed, durable as the broker promises. `rejected`: certainly not stored. `unknown`: no answer came. */
export type PublishResult =
  | { readonly status: 'stored'; readonly partition?: number | undefined; readonly position?: string | undefined; readonly duplicate?: boolean }
  | { readonly status: 'rejected' | 'unknown'; readonly error: unknown }

/** What the driver tells the engine about partitions. Epochs of a partition only grow. */
export interface Ownership {
  /** From now on `fetch` may hand over messages of this partition. */
  assigned(partition: number, epoch: number): void
  /** Another member shall have it: the engine finishes what runs, settles and calls `release`, or loses it after `deadlineMs`. */
  revoking(partition: number, deadlineMs: number): void
  /** It is gone: nothing of this epoch can be settled any more. */
  lost(partition: number, reason: string): void
  /** How the last renewal of what it holds went: an error is the subscription's until one goes well. Only from brokers that renew. */
  renewed(error: unknown): void
}

/** One member of one group on one topic. Pull: nothing comes that the engine did not ask for. */
export interface Consumption {
  /**
   * At most `wants.get(p)` messages of each partition, in the partition's order, after those handed over before in this epoch. Waits until there is at least one;
   * an abort resolves with nothing. With nothing wanted it waits too. Throws `ERR_MESSAGING_TOPIC_NOT_FOUND` when topic or group are gone. Skips what was settled above the watermark. Throws when the broker cannot be reached: the engine asks again.
   */
  fetch(wants: ReadonlyMap<number, number>, options: { signal: AbortSignal }): Promise<readonly Delivery[]>
  /** Records durably that a suspect delivery's handler is about to start; gives the number of starts so recorded, this one included. */
  begin(delivery: Delivery): Promise<number>
  /** Durable when it resolves. Item i tells of progress i; `stale`: the epoch is over, nothing was stored. */
  settle(progress: readonly Progress[]): Promise<readonly ('settled' | 'stale')[]>
  /** Only with `ackDeadlineMs`: these are still being worked on. */
  extend(deliveries: readonly Delivery[]): Promise<void>
  /** Gives a partition up: what was not settled goes to its next owner, who need not suspect it. */
  release(partition: number, epoch: number): Promise<void>
  /** Leaves the group; releases nothing that was not released. Twice is fine. */
  close(): Promise<void>
}

/** A message in the hands of a member. */
export interface Delivery {
  readonly partition: number
  readonly epoch: number
  /** Opaque; grows within a partition in the order of `fetch`. */
  readonly position: string
  readonly message: StoredMessage
  /** Was in the hands of an owner that ended without letting go: it may be what ended it. */
  readonly suspect: boolean
}

/** A message as the broker keeps it, its headers with the engine's own `cb-` ones. */
export interface StoredMessage {
  readonly id: string
  readonly idStable: boolean
  readonly key: string | undefined
  readonly value: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  readonly timestamp: number
  readonly tombstone: boolean
  readonly rawKey?: Uint8Array | undefined
  readonly rawHeaders?: ReadonlyArray<readonly [name: string, value: Uint8Array]> | undefined
}

/** How far a partition is done in one epoch. */
export interface Progress {
  readonly partition: number
  readonly epoch: number
  /** The last delivery before the first unfinished one; absent while that is the first. */
  readonly watermark: Delivery | undefined
  /** All that are finished beyond the watermark: a crash must not hand them out again. */
  readonly above: readonly Delivery[]
  /** Finished since the last settlement, for brokers that settle each. */
  readonly settled: readonly Delivery[]
}

/** What a topic is. */
export interface TopicSpec {
  readonly partitions: number
  /** Kept until marked: dead letters. Such a topic has one partition and no groups. */
  readonly keep: boolean
  /** Removed at this age even when unread. Absent: only after every group has passed. */
  readonly maxAgeMs: number | undefined
}

/** Where a group begins: at the oldest message that is still there, after the newest, at the first one of a time, or at a position a partition. */
export type Start = 'earliest' | 'latest' | Date | ReadonlyMap<number, string>

/** All idempotent, and safe when several processes do the same at once. */
export interface TopicAdmin {
  /** Throws `ERR_MESSAGING_TOPOLOGY_MISMATCH` when it is there with other partitions, another `maxAgeMs` than is given, or `keep`, or a name that differs only in `.` and `_` is. */
  createTopic(topic: string, spec: TopicSpec): Promise<void>
  /** With its groups and messages. */
  deleteTopic(topic: string): Promise<void>
  /** One topic, or all. */
  topics(topic?: string): Promise<readonly { readonly topic: string; readonly spec: TopicSpec }[]>
  /** Leaves a group that is there where it stands. Throws `ERR_MESSAGING_TOPIC_NOT_FOUND`. */
  createGroup(topic: string, group: string, start: Start): Promise<void>
  deleteGroup(topic: string, group: string): Promise<void>
  groups(topic: string): Promise<readonly GroupInfo[]>
}

/** How a group stands on a topic. */
export interface GroupInfo {
  readonly group: string
  /** Live members. */
  readonly members: number
  /** Messages not settled yet, delayed ones included. */
  readonly lag: number
  /**
   * Since when the first message not settled could have been handled, by the broker's clock; where the broker does not keep that, its timestamp, which for one
   * that was delayed or replayed is earlier. The oldest of all partitions; delayed ones do not count. `undefined`: there is none, or the broker only estimates.
   */
  readonly oldestAt: number | undefined
  /** True where the broker only estimates. */
  readonly approximate: boolean
}

/** Reading without consuming: `peek`, dead letters, replay. */
export interface TopicLog {
  /**
   * Messages of one partition after `after` (from the oldest when absent), oldest first: at most `limit`, and no more than come to `limitBytes`, of which a broker may count more than
   * bodies; but at least one while there is one, whatever it weighs. Nothing says that there are no more but an empty page.
   */
  read(topic: string, partition: number, after: string | undefined, limit: number, limitBytes: number): Promise<readonly LogEntry[]>
  /** Moves a group; throws `ERR_MESSAGING_GROUP_BUSY` while it has members. Only with `history`. */
  seek(topic: string, group: string, to: Start): Promise<void>
  /** The marks set on a kept topic, by letter id, each with the latest position given for it. */
  marks(topic: string): Promise<ReadonlyMap<string, Omit<LetterMark, 'letterId'>>>
  /** Sets marks. Who can delete single messages deletes those at the positions of `discarded` ones, and with them the marks that reach no further. */
  mark(topic: string, marks: readonly LetterMark[]): Promise<void>
}

/** What was done about a dead letter. */
export type Mark = 'replayed' | 'discarded'
/** A mark to set. */
export interface LetterMark {
  readonly letterId: string
  /** Copies of the letter up to here are meant. */
  readonly position: string
  readonly mark: Mark
}

/** A message of a log, and its place. */
export interface LogEntry {
  /** Decimal numbers, with `-` in between where there are several; later messages have larger ones. */
  readonly position: string
  readonly message: StoredMessage
}
