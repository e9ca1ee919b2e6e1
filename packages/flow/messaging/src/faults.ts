import { type Checks, checkOptions, isFunction, number, oneOf } from '#internal/options'
import type { BrokerDriver, Capabilities, Consumption, Delivery, OutgoingMessage, PublishResult } from './driver.ts'
import { MessagingError } from './errors.ts'

/** A generator of numbers in [0, 1), the same ones for the same seed (mulberry32): faults that can be had again. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** How often, and from which random numbers. */
export interface FaultOptions {
  /** Of the messages, in [0, 1]. @default 0.1 */
  rate?: number | undefined
  /** @default seededRandom(1) */
  random?: (() => number) | undefined
}

type Driver<C extends Capabilities> = BrokerDriver<C>

const faultChecks: Checks<FaultOptions> = { rate: number(0, 1), random: isFunction }

function chance(options: FaultOptions): () => boolean {
  checkOptions('fault', options, faultChecks)
  const { rate = 0.1, random = seededRandom(1) } = options
  return () => random() < rate
}

/** Stores some messages twice under the same id, as a publisher that got no answer does. What a handler does must bear it. */
export function duplicate<C extends Capabilities>(driver: Driver<C>, options: FaultOptions = {}): Driver<C> {
  const hit = chance(options)
  return {
    ...driver,
    publish: async (messages, call) => {
      const twice = messages.flatMap((message) => (hit() ? [message, { ...message, dedupeId: undefined }] : [message]))
      const results = await driver.publish(twice, call)
      return results.filter((_, i) => i === 0 || twice[i]!.id !== twice[i - 1]!.id)
    },
  }
}

/** Swaps some messages with the one behind them, among those that are published in the same turn. Keys lose their order: what a handler does must bear it. */
export function reorder<C extends Capabilities>(driver: Driver<C>, options: FaultOptions = {}): Driver<C> {
  const hit = chance(options)
  return {
    ...driver,
    publish: async (messages, call) => {
      const order = messages.map((_, i) => i)
      for (let i = 0; i + 1 < order.length; i++) if (hit()) [order[i], order[i + 1]] = [order[i + 1]!, order[i]!]
      const stored = await driver.publish(
        order.map((i) => messages[i]!),
        call,
      )
      const results: PublishResult[] = []
      order.forEach((i, at) => (results[i] = stored[at]!))
      return results
    },
  }
}

/** Which publishes fail, and how. */
export interface FailPublishOptions extends FaultOptions {
  /** Which messages may fail. @default all */
  when?: ((message: OutgoingMessage) => boolean) | undefined
  /** `rejected`: not stored. `unknown`: stored, and no answer comes. @default 'rejected' */
  status?: 'rejected' | 'unknown' | undefined
  error?: unknown
}

const failChecks: Checks<FailPublishOptions> = { ...faultChecks, when: isFunction, status: oneOf('rejected', 'unknown'), error: () => undefined }

/** Lets some messages, or those that `when` names, fail; after one of a key, the later ones of that key in the call too. */
export function failPublish<C extends Capabilities>(driver: Driver<C>, options: FailPublishOptions = {}): Driver<C> {
  checkOptions('failPublish', options, failChecks)
  const { when = () => true, status = 'rejected', rate = options.when ? 1 : undefined, random } = options
  const hit = chance({ rate, random })
  const error = options.error ?? new MessagingError('ERR_MESSAGING_CONNECTION', 'A fault was injected', { retryable: true })
  return {
    ...driver,
    publish: async (messages, call) => {
      const failed = new Set<string>()
      const fails = messages.map((message) => {
        const lane = `${message.topic} ${message.key ?? message.id}`
        const fail = failed.has(lane) || (when(message) && hit())
        if (fail) failed.add(lane)
        return fail
      })
      const passed = messages.filter((_, i) => status === 'unknown' || !fails[i])
      const results = passed.length > 0 ? [...(await driver.publish(passed, call))] : []
      return messages.map((_, i) => {
        if (!fails[i]) return results.shift()!
        if (status === 'unknown') results.shift()
        return { status, error }
      })
    },
  }
}

/** A driver whose connection can be cut and mended. While it is cut every call fails, those under way included, whose work may be done all the same. */
export type Cuttable<C extends Capabilities> = Driver<C> & {
  cut(): void
  mend(): void
}

/** Loses the connection on demand. What the driver does by itself (renewing its leases) goes on: to lose a whole process, sever a client of a `memoryStore`. */
export function cuttable<C extends Capabilities>(driver: Driver<C>): Cuttable<C> {
  const lost = (): MessagingError => new MessagingError('ERR_MESSAGING_CONNECTION', 'The connection was cut', { retryable: true })
  let connected = true
  let cut = new AbortController()

  const through = async <T>(call: () => Promise<T>): Promise<T> => {
    if (!connected) throw lost()
    const { signal } = cut
    const answer = call()
    return await new Promise((resolve, reject) => {
      const onCut = (): void => reject(lost())
      signal.addEventListener('abort', onCut, { once: true })
      answer.then(resolve, reject).finally(() => signal.removeEventListener('abort', onCut))
    })
  }
  const all = <T extends object>(port: T): T =>
    Object.fromEntries(
      Object.entries(port).map(([name, method]) => [name, (...args: unknown[]) => through(() => (method as (...a: unknown[]) => Promise<unknown>)(...args))]),
    ) as T
  const wrapped = (consumption: Consumption): Consumption => {
    /** What a fetch brought that nobody waited for any more: the next one has it. */
    let late: readonly Delivery[] = []
    const fetch: Consumption['fetch'] = async (wants, { signal }) => {
      const room = new Map(wants)
      const due = late.filter(({ partition }) => {
        const n = room.get(partition) ?? 0
        room.set(partition, n - 1)
        return n > 0
      })
      late = late.filter((delivery) => !due.includes(delivery))
      if (due.length > 0) return due
      const fetching = consumption.fetch(wants, { signal: AbortSignal.any([signal, cut.signal]) })
      return through(() => fetching).catch((error: unknown) => {
        fetching.then(
          (deliveries) => (late = [...late, ...deliveries]),
          () => undefined,
        )
        throw error
      })
    }
    return { ...all(consumption), fetch: (wants, options) => through(() => fetch(wants, options)), close: consumption.close }
  }

  return {
    ...driver,
    publish: (messages, options) =>
      through(() => driver.publish(messages, options)).catch((error: unknown) => messages.map(() => ({ status: 'unknown' as const, error }))),
    consume: (topic, group, owner) => through(async () => wrapped(await driver.consume(topic, group, owner))),
    ping: (options) => through(() => driver.ping(options)),
    admin: all(driver.admin),
    log: all(driver.log),
    cut: () => {
      connected = false
      cut.abort()
    },
    mend: () => {
      connected = true
      cut = new AbortController()
    },
  }
}
