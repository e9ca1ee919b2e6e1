import { checkOptions } from '#internal/options'
import type { DeliveryContext, MessageSubscriber, ReceivedMessage, SubscribeOptions } from './message.ts'
import { workerChecks } from './options.ts'

/** What the worker takes from where to where. */
export interface WorkerOptions {
  subscriber: MessageSubscriber
  processor: { readonly topics: readonly string[]; processMessage(message: ReceivedMessage, ctx: DeliveryContext): Promise<void> }
  /** @default the topics of the processor's events */
  topics?: readonly string[] | undefined
  /** Workers of one group share the messages; each group gets all. */
  group: string
  /** Messages at a time, across keys. @default the subscriber's */
  concurrency?: number | undefined
  /** What else the subscription is to know: `order`, `drainMs`, `handlerTimeoutMs` (of all handlers of a message with their retries) and the broker's own. */
  subscription?: Omit<SubscribeOptions, 'group' | 'concurrency' | 'retry'> | undefined
}

/** Takes messages from a subscriber to a processor. The process's signals are the application's: call `stop` from there. */
export interface Worker extends AsyncDisposable {
  /** Resolves once subscribed. Starting a started worker is fine; after `stop` it may start again. */
  start(): Promise<void>
  /** Takes no more messages; resolves when those under way have ended, or the subscription's `drainMs` is over. */
  stop(): Promise<void>
  /** `stop`, by the name that everything opened has. */
  close(): Promise<void>
  readonly running: boolean
}

/** The subscription makes one attempt: retrying is the processor's, and its final failure the dead letter. */
export function createWorker(options: WorkerOptions): Worker {
  checkOptions('createWorker', options, workerChecks, ['subscriber', 'processor', 'group'])
  const { subscriber, processor, topics, group, concurrency, subscription = {} } = options
  let open: Promise<{ close(): Promise<void> }> | undefined
  let stopping: Promise<void> | undefined

  async function subscribe(): Promise<{ close(): Promise<void> }> {
    await stopping
    const names = topics ?? processor.topics
    if (names.length === 0) throw new TypeError('The worker has no topics: give some, or register handlers before start')
    const options = { ...subscription, group, retry: { maxAttempts: 1 }, ...(concurrency !== undefined && { concurrency }) }
    return subscriber.subscribe(names, options, (message, ctx) => processor.processMessage(message, ctx))
  }

  async function start(): Promise<void> {
    const opening = (open ??= subscribe())
    try {
      await opening
    } catch (error) {
      if (open === opening) open = undefined
      throw error
    }
  }

  async function stop(): Promise<void> {
    const subscribed = open
    open = undefined
    if (!subscribed) return stopping
    const closing = async (): Promise<void> => {
      const subscription = await subscribed.catch(() => undefined) // `start` has told its caller
      await subscription?.close()
    }
    return (stopping = closing())
  }

  return {
    start,
    stop,
    close: stop,
    get running() {
      return open !== undefined
    },
    [Symbol.asyncDispose]: stop,
  }
}
