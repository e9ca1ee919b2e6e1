import { AssertionError } from 'node:assert'
import { inspect, isDeepStrictEqual } from 'node:util'
import { uuidv7 } from '#internal/uuid'
import { MessagingError, publishRefused } from './errors.ts'
import type { MessageInput } from './message.ts'
import type { BatchResult, Published, PublishOptions } from './publisher.ts'

/** Some of what a message must have; `body` is compared with the value read as JSON, at every depth only in the fields given. */
export interface ExpectedMessage {
  topic?: string | undefined
  key?: string | undefined
  id?: string | undefined
  headers?: Readonly<Record<string, string>> | undefined
  body?: unknown
}

/** A message that was published. */
export type SpiedMessage = MessageInput & { readonly id: string }

/** Stands in for a broker wherever something publishes. Keeps what it is given. */
export interface SpyPublisher {
  publish(message: MessageInput, options?: PublishOptions): Promise<Published>
  publishBatch(messages: readonly MessageInput[], options?: PublishOptions): Promise<readonly BatchResult[]>
  /** In order of publication. */
  readonly published: readonly SpiedMessage[]
  /** Those that have these fields. */
  find(expected: ExpectedMessage): readonly SpiedMessage[]
  /** The first that has these fields. Throws `AssertionError` that shows what was published instead. */
  expectPublished(expected: ExpectedMessage): SpiedMessage
  /** Throws `AssertionError` when anything was published, or anything that has these fields. */
  expectNothing(expected?: ExpectedMessage): void
  /** The next message is refused as a broker would, `ERR_MESSAGING_PUBLISH` with this cause; a `MessagingError` stays what it is. */
  failNext(error: unknown): void
  clear(): void
}

/** A publisher that keeps what it is given: `const spy = spyPublisher(); await register(spy, user); spy.expectPublished({ topic: 'user-events', body: { name: 'Ada' } })`. */
export function spyPublisher(): SpyPublisher {
  let published: SpiedMessage[] = []
  let failures: MessagingError[] = []

  const keep = (message: MessageInput): Published => {
    const failure = failures.shift()
    if (failure) throw failure
    // The caller may go on with its buffer.
    const kept = { ...message, id: message.id ?? uuidv7(), value: message.value.slice() }
    published.push(kept)
    return { id: kept.id, partition: undefined, position: undefined, duplicate: false }
  }

  const find = (expected: ExpectedMessage): SpiedMessage[] => published.filter((message) => fits(message, expected))
  const fail = (text: string, expected: unknown, by: (...args: never[]) => unknown): never => {
    const actual = published.map(shown)
    throw new AssertionError({ message: `${text}; published: ${inspect(actual, { depth: 5 })}`, actual, expected, operator: by.name, stackStartFn: by })
  }

  const spy: SpyPublisher = {
    publish: async (message, { signal } = {}) => {
      signal?.throwIfAborted()
      return keep(message)
    },
    publishBatch: async (messages, { signal } = {}) => {
      signal?.throwIfAborted()
      return messages.map((message): BatchResult => {
        try {
          return { status: 'stored', ...keep(message) }
        } catch (error) {
          return { id: message.id ?? '', status: 'rejected', error: error as MessagingError }
        }
      })
    },
    get published() {
      return [...published]
    },
    find,
    expectPublished: (expected) => find(expected)[0] ?? fail(`Expected ${inspect(expected)}`, expected, spy.expectPublished),
    expectNothing: (expected = {}) => {
      if (find(expected).length > 0) fail(`Expected nothing${Object.keys(expected).length > 0 ? ` like ${inspect(expected)}` : ''}`, [], spy.expectNothing)
    },
    failNext: (error) => void failures.push(error instanceof MessagingError ? error : publishRefused('the spy', error)),
    clear: () => {
      published = []
      failures = []
    },
  }
  return spy
}

function fits(message: SpiedMessage, { body, headers = {}, ...fields }: ExpectedMessage): boolean {
  for (const [name, value] of Object.entries(fields)) if (message[name as keyof typeof fields] !== value) return false
  for (const [name, value] of Object.entries(headers)) if (message.headers?.[name] !== value) return false
  return body === undefined || contains(bodyOf(message), body)
}

function bodyOf({ value }: SpiedMessage): unknown {
  const text = Buffer.from(value).toString()
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

function contains(actual: unknown, expected: unknown): boolean {
  if (typeof expected !== 'object' || expected === null || Array.isArray(expected)) return isDeepStrictEqual(actual, expected)
  if (typeof actual !== 'object' || actual === null) return false
  return Object.entries(expected).every(([name, value]) => contains((actual as Record<string, unknown>)[name], value))
}

function shown(message: SpiedMessage): object {
  const { topic, key, headers } = message
  return { topic, key, headers, body: bodyOf(message) }
}
