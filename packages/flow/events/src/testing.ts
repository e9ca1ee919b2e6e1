import { AssertionError } from 'node:assert'
import { inspect, isDeepStrictEqual } from 'node:util'
import type { Clock } from '#internal/clock'
import { errorText } from '#internal/thrown'
import { toMessage } from './envelope.ts'
import { EventHandlingError } from './errors.ts'
import type { DomainEvent, AnyEventDefinition, EventOf } from './event.ts'
import type { ReceivedMessage } from './message.ts'
import type { EventProcessor } from './processor.ts'
import { eventPublisher, type EventPublisher } from './publisher.ts'

/** A publisher that keeps what it is given. */
export interface SpyPublisher extends EventPublisher {
  /** In order of publication. */
  readonly events: readonly DomainEvent[]
  /** Those of one type. */
  of<D extends AnyEventDefinition>(event: D): readonly EventOf<D>[]
  clear(): void
}

/** Stands in for any {@link EventPublisher}. An event that could not be encoded is refused, as a real one would. */
export function spyPublisher(): SpyPublisher {
  let events: DomainEvent[] = []
  const publisher = eventPublisher({ publish: async () => {} })
  return {
    async publish(event, options) {
      await publisher.publish(event, options)
      events.push(event)
    },
    async publishBatch(batch, options) {
      await publisher.publishBatch(batch, options)
      events.push(...batch)
    },
    close: publisher.close,
    get events() {
      return [...events]
    },
    of: <D extends AnyEventDefinition>(definition: D) => events.filter(({ name }) => name === definition.name) as EventOf<D>[],
    clear() {
      events = []
    },
  }
}

/** Some of a value's fields, at every depth. */
export type Expected<T> = T extends Date | readonly unknown[] ? T : T extends object ? { readonly [K in keyof T]?: Expected<T[K]> } : T

/** The first event of this type whose data have these fields. Throws `AssertionError` that shows what was published instead. */
export function expectPublished<D extends AnyEventDefinition>(
  spy: Pick<SpyPublisher, 'events' | 'of'>,
  definition: D,
  data?: Expected<EventOf<D> extends DomainEvent<string, infer Data> ? Data : never>,
): EventOf<D> {
  const found = spy.of(definition).find((event) => data === undefined || contains((event as DomainEvent).data, data))
  if (found) return found
  const published = spy.events.map(({ name, data }) => ({ name, data }))
  const wanted = data === undefined ? definition.name : `${definition.name} with ${inspect(data)}`
  throw new AssertionError({
    message: `Expected ${wanted}; published: ${inspect(published, { depth: 5 })}`,
    actual: published,
    expected: { name: definition.name, data },
    operator: 'expectPublished',
    stackStartFn: expectPublished,
  })
}

/** What followed from an event. Each method handles it once, on first use. */
export interface Outcome {
  /** Handled, and such an event published. */
  thenPublished: <D extends AnyEventDefinition>(definition: D, data?: Parameters<typeof expectPublished<D>>[2]) => Promise<EventOf<D>>
  /** Handled, and nothing published. */
  thenNothing: () => Promise<void>
  /** A handler failed for good, with this code or a message that matches. */
  thenFails: (why: string | RegExp) => Promise<unknown>
}

/**
 * `await given({ processor, publisher: spy }, [past]).when(event).thenPublished(Followed, { … })`: handles the past events, forgets what they led to,
 * then handles the event. All of them go as bytes, so that a schema which does not take its own output is found here.
 */
export function given<Tx>(
  { processor, publisher }: { processor: EventProcessor<Tx>; publisher: SpyPublisher },
  past: readonly DomainEvent[] = [],
): { when(event: DomainEvent): Outcome } {
  return {
    when(event) {
      let handling: Promise<unknown> | undefined
      const handle = async (): Promise<unknown> => {
        for (const earlier of past) await processor.processMessage(receivedMessage(earlier))
        publisher.clear()
        return processor.processMessage(receivedMessage(event)).then(
          () => undefined,
          (error: unknown) => error,
        )
      }
      const succeeded = async (): Promise<void> => {
        const error = await (handling ??= handle())
        if (error !== undefined) throw error
      }
      return {
        async thenPublished(definition, data) {
          await succeeded()
          return expectPublished(publisher, definition, data)
        },
        async thenNothing() {
          await succeeded()
          const names = publisher.events.map(({ name }) => name)
          if (names.length > 0) throw new AssertionError({ message: `Expected nothing; published: ${names.join(', ')}`, actual: names, expected: [] })
        },
        async thenFails(why) {
          const error = await (handling ??= handle())
          const errors = error instanceof EventHandlingError ? error.failures.map((failure) => failure.error) : error === undefined ? [] : [error]
          const matches = (one: unknown): boolean => (typeof why === 'string' ? (one as { code?: unknown } | null)?.code === why : why.test(errorText(one)))
          const found = errors.find(matches)
          if (found !== undefined) return found
          const got = errors.length === 0 ? 'it was handled' : errors.map(errorText).join('; ')
          throw new AssertionError({ message: `Expected ${event.name} to fail with ${String(why)}, but ${got}`, actual: errors, expected: why })
        },
      }
    },
  }
}

/** The event as a broker would hand it over, for `processMessage`. */
export function receivedMessage(event: DomainEvent, changes: Partial<ReceivedMessage> = {}): ReceivedMessage {
  const { value, headers = {} } = toMessage(event)
  return { id: event.id, topic: event.topic, key: event.key, value, headers, timestamp: event.occurredAt.getTime(), idStable: true, ...changes }
}

/** A clock that stands still until it is told to go on. */
export interface VirtualClock extends Clock {
  /** Lets `ms` pass: wakes, in order, who waits until then; and lets what they do run on between. */
  advance(ms: number): Promise<void>
  /** How many wait. */
  readonly sleepers: number
}

/** For `createEventProcessor({ clock })`, so that a test of retries and timeouts neither waits nor guesses. */
export function virtualClock(start: number = Date.UTC(2026, 0, 1)): VirtualClock {
  let time = 0
  let sleeping: { at: number; wake: () => void }[] = []
  const settle = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve))
  return {
    now: () => start + time,
    monotonic: () => time,
    sleep: (ms, { signal } = {}) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason as Error)
        const sleeper = {
          at: time + ms,
          wake: () => {
            signal?.removeEventListener('abort', onAbort)
            resolve()
          },
        }
        const onAbort = (): void => {
          sleeping = sleeping.filter((other) => other !== sleeper)
          reject(signal!.reason as Error)
        }
        signal?.addEventListener('abort', onAbort, { once: true })
        sleeping.push(sleeper)
      }),
    async advance(ms) {
      const until = time + ms
      for (;;) {
        await settle()
        const next = sleeping.toSorted((a, b) => a.at - b.at)[0]
        if (!next || next.at > until) break
        sleeping = sleeping.filter((other) => other !== next)
        time = next.at
        next.wake()
      }
      time = until
    },
    get sleepers() {
      return sleeping.length
    },
  }
}

function contains(actual: unknown, expected: unknown): boolean {
  if (typeof expected !== 'object' || expected === null || Array.isArray(expected) || expected instanceof Date) return isDeepStrictEqual(actual, expected)
  if (typeof actual !== 'object' || actual === null) return false
  return Object.entries(expected).every(([key, value]) => contains((actual as Record<string, unknown>)[key], value))
}
