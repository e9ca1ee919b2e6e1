import { deferred } from '#internal/abort'
import { checkOptions, having, shown } from '#internal/options'
import { toMessage } from './envelope.ts'
import { EventError, EventPublishError } from './errors.ts'
import type { Correlation, DomainEvent } from './event.ts'
import type { MessagePublisher, PublishResult } from './message.ts'
import { publishChecks, publisherChecks } from './options.ts'

/** What goes along with the events. */
export interface EventPublishOptions {
  /** Fills in what the event itself does not say; in a handler, `ctx.correlation`. */
  correlation?: Correlation | undefined
  signal?: AbortSignal | undefined
}

/** The port through which an application's core says what happened. */
export interface EventPublisher {
  /** Resolves once the event is stored; rejects with the publisher's own error. */
  publish(event: DomainEvent, options?: EventPublishOptions): Promise<void>
  /** In order. Resolves once all are stored; rejects with {@link EventPublishError}, which names those that are not. */
  publishBatch(events: readonly DomainEvent[], options?: EventPublishOptions): Promise<void>
  /** Resolves when what is under way has settled; later publishes reject with `ERR_EVENTS_CLOSED`. What lies below stays open. */
  close(): Promise<void>
}

/** Publishes events through anything that publishes messages: a broker, `outbox.publisher(tx)`, a spy. `source` is CloudEvents', `/<topic>` by default. */
export function eventPublisher(target: MessagePublisher, options: { source?: string } = {}): EventPublisher & AsyncDisposable {
  having('publish')(target, 'eventPublisher: target')
  checkOptions('eventPublisher', options, publisherChecks)
  let closed = false
  let pending = 0
  const idle = deferred()
  const tracked = async <T>(work: () => Promise<T>): Promise<T> => {
    if (closed) throw new EventError('ERR_EVENTS_CLOSED', 'The event publisher is closed')
    pending++
    try {
      return await work()
    } finally {
      if (--pending === 0 && closed) idle.resolve()
    }
  }
  const below = ({ signal }: EventPublishOptions): { signal?: AbortSignal } => (signal ? { signal } : {})
  const message = (event: DomainEvent, { correlation }: EventPublishOptions): ReturnType<typeof toMessage> =>
    toMessage(event, { ...options, ...(correlation && { correlation }) })

  const publisher: EventPublisher = {
    publish: (event, publishing = {}) =>
      tracked(async () => {
        checkOptions('publish', publishing, publishChecks)
        await target.publish(message(event, publishing), below(publishing))
      }),
    publishBatch: (events, publishing = {}) =>
      tracked(async () => {
        if (!Array.isArray(events)) throw new TypeError(`publishBatch: events must be an array, got ${shown(events)}`)
        checkOptions('publishBatch', publishing, publishChecks)
        const messages = events.map((event) => message(event, publishing))
        const results = await (target.publishBatch?.(messages, below(publishing)) ?? oneByOne(target, messages, below(publishing)))
        const failures = messages.flatMap(({ id }, index) => {
          const { status, error } = results[index] ?? { status: 'unknown' }
          return status === 'stored' ? [] : [{ index, id: id!, status, error }]
        })
        if (failures.length > 0) throw new EventPublishError(events.length, failures)
      }),
    async close() {
      closed = true
      if (pending > 0) await idle.promise
    },
  }
  return { ...publisher, [Symbol.asyncDispose]: publisher.close }
}

/** Once an event of a key has failed its later ones are held back: stored, they would stand before it when it is published again. */
async function oneByOne(
  target: MessagePublisher,
  messages: readonly ReturnType<typeof toMessage>[],
  options: { signal?: AbortSignal },
): Promise<PublishResult[]> {
  const failed = new Map<string | undefined, Error>()
  const results: PublishResult[] = []
  for (const message of messages) {
    const earlier = failed.get(message.key)
    if (earlier) {
      results.push({ status: 'rejected', error: earlier })
      continue
    }
    try {
      await target.publish(message, options)
      results.push({ status: 'stored' })
    } catch (error) {
      failed.set(message.key, error as Error)
      results.push({ status: 'unknown', error: error as Error })
    }
  }
  return results
}
