import assert from 'node:assert/strict'
import { type Deferred, deferred } from '#internal/abort'
import type { Clock } from '#internal/clock'
import { systemClock } from '#internal/clock'
import { thrownText } from '#internal/thrown'
import { randomBytes } from 'node:crypto'
import { type Broker, type BrokerOptions, createBroker, type SubscribeOptions } from '../broker.ts'
import type { BrokerDriver, Capabilities } from '../driver.ts'
import type { Hooks } from '../hooks.ts'
import type { HandlerContext } from '../job.ts'
import type { Message, MessageInput } from '../message.ts'
import type { Subscription } from '../subscription.ts'

/** The store under test. Every `open()` within a case is another client of the same store. */
export interface ContractHarness<D extends BrokerDriver = BrokerDriver> {
  /** `leaseMs` is given where a case waits for leases: how long a silent member of this client keeps its partitions. Elsewhere the default is better: nobody loses one by a slow machine. */
  open(options: { readonly leaseMs: number | undefined }): D | Promise<D>
  /** Cuts a client off as a killed process would be: it settles nothing, releases nothing, and every call of it fails from now on. */
  sever?(driver: D): void | Promise<void>
  /** Puts a message there as another tool would, without anything of ours. */
  inject?(topic: string, message: ForeignMessage): Promise<void>
  /** From now on the store refuses the messages with these ids when this client publishes them. */
  refuse?(driver: D, ids: ReadonlySet<string>): void
  /** Of the broker and its store. @default the machine's */
  clock?: Clock | undefined
  /** How many messages a case moves. @default 1_000 */
  messages?: number | undefined
  /** How long a case waits for what must happen. @default 20_000 */
  guardMs?: number | undefined
}

/** A message of somebody who doesn't know our grammar. */
export interface ForeignMessage {
  readonly key: Uint8Array | undefined
  readonly value: Uint8Array
  readonly headers: ReadonlyArray<readonly [name: string, value: Uint8Array]>
}

/** What the harness can do, and about its drivers. */
export interface ContractOptions {
  /** Whether the harness has `sever`. @default true */
  sever?: boolean | undefined
  /** Whether the harness has `inject`. @default false */
  inject?: boolean | undefined
  /** Whether the harness has `refuse`. @default false */
  refuse?: boolean | undefined
  /** What `open` is told in cases that wait for leases, ms: some hundreds. Absent: these are not run. */
  leaseMs?: number | undefined
}

/** One promise. `needs` gives the reason why it does not apply. */
export interface Definition {
  readonly name: string
  readonly needs?: ((capabilities: Capabilities, options: ContractOptions) => string | undefined) | undefined
  /** Waits for leases to move or to run out. */
  readonly leases?: true
  readonly run: (stage: Stage) => Promise<void>
}

export interface Client {
  readonly broker: Broker
  readonly driver: BrokerDriver
}

/** A message as a case keeps it. */
export interface Seen {
  readonly id: string
  readonly topic: string
  readonly key: string | undefined
  readonly text: string
  readonly attempt: number
  readonly partition: number
}

export interface Listener {
  readonly subscription: Subscription
  /** Every run of the handler, in the order of their starts. */
  readonly runs: readonly Seen[]
  /** Those that returned. */
  readonly done: readonly Seen[]
}

/** What a case works with. Everything opened here is closed when the case is over. */
export interface Stage {
  readonly capabilities: Capabilities
  readonly clock: Clock
  /** How many messages. */
  readonly n: number
  readonly leaseMs: number
  readonly foreign: (topic: string, message: ForeignMessage) => Promise<void>
  /** A name of its own. */
  topic(hint?: string): string
  /** Another client of the store, with the short lease of who may fall silent. `wrap` puts something between engine and driver. */
  client(options?: BrokerOptions, wrap?: (driver: BrokerDriver) => BrokerDriver): Promise<Client>
  /** The engine of a client who must not lose a partition because the machine is slow: its lease is five times as long. */
  broker(options?: BrokerOptions): Promise<Broker>
  sever(client: Client): Promise<void>
  refuse(client: Client, ids: ReadonlySet<string>): void
  /** Subscribes and writes down what comes; what `handler` throws or says counts. */
  listen(
    broker: Broker,
    topics: string | readonly string[],
    options?: SubscribeOptions,
    handler?: (message: Message, context: HandlerContext) => unknown,
  ): Promise<Listener>
  /** Publishes in one batch, all of which must be stored; gives the ids. */
  publish(broker: Broker, messages: readonly MessageInput[]): Promise<readonly string[]>
  /** Waits until the condition holds. */
  until(condition: () => boolean | Promise<boolean>, what: string): Promise<void>
  /** Nothing of this topic is left to do for the group. */
  untilRead(broker: Broker, topic: string, group: string): Promise<void>
  /** What must not take longer than `boundMs`: exactly so on a virtual clock, on others twenty times as long is a failure. */
  within<T>(boundMs: number, what: string, work: () => Promise<T>): Promise<T>
  /** Something that handlers wait for; resolved at the latest when the case is over, so that nothing hangs. */
  gate(): Deferred<void>
}

const utf8 = new TextEncoder()
export const bytes = (text: string): Uint8Array => utf8.encode(text)
export const textOf = ({ value }: { readonly value: Uint8Array }): string => new TextDecoder().decode(value)
export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i)
/** `n` messages over `keys` keys; the body says where in its key's sequence each stands. */
export const keyed = (topic: string, n: number, keys: number): MessageInput[] =>
  range(n).map((i) => ({ topic, key: `key-${i % keys}`, value: bytes(String(Math.floor(i / keys))) }))

/** What fails here does so on purpose. */
const unheard: Hooks = { onError: () => undefined, onStuck: () => undefined }

export async function openStage<D extends BrokerDriver>(
  harness: ContractHarness<D>,
  capabilities: Capabilities,
  leaseMs: number | undefined,
): Promise<[Stage, () => Promise<void>]> {
  const { clock = systemClock, messages: n = 1_000, guardMs = 20_000 } = harness
  const exact = 'advance' in clock
  const prefix = `t${randomBytes(5).toString('hex')}`
  const clients: { client: Client; inner: D; severed: boolean }[] = []
  const gates: Deferred<void>[] = []
  const topics: string[] = []

  const join: (lease: number | undefined, ...options: Parameters<Stage['client']>) => Promise<Client> = async (
    lease,
    brokerOptions,
    wrap = (driver) => driver,
  ) => {
    const inner = await harness.open({ leaseMs: lease })
    const driver = wrap(inner)
    const client = { driver, broker: createBroker(driver, { clock, hooks: unheard, ...brokerOptions }) }
    clients.push({ client, inner, severed: false })
    return client
  }
  const stage: Stage = {
    capabilities,
    clock,
    n,
    leaseMs: leaseMs ?? 0,
    foreign: (topic, message) => harness.inject!(topic, message),
    topic: (hint = 'a') => {
      const topic = `${prefix}-${topics.length}-${hint}`
      topics.push(topic)
      return topic
    },
    client: (brokerOptions, wrap) => join(leaseMs, brokerOptions, wrap),
    broker: async (brokerOptions) => (await join(leaseMs && leaseMs * 5, brokerOptions)).broker,
    sever: async (client) => {
      const found = clients.find((one) => one.client === client)!
      found.severed = true
      await harness.sever!(found.inner)
    },
    refuse: (client, ids) => harness.refuse!(clients.find((one) => one.client === client)!.inner, ids),
    listen: async (broker, topics, subscribeOptions = {}, handler) => {
      const runs: Seen[] = []
      const done: Seen[] = []
      const subscription = await broker.subscribe(topics, { retry: quick, ...subscribeOptions }, async (message, context) => {
        const seen = { id: message.id, topic: message.topic, key: message.key, text: textOf(message), attempt: message.attempt, partition: context.partition }
        runs.push(seen)
        await handler?.(message, context)
        done.push(seen)
      })
      return { subscription, runs, done }
    },
    publish: async (broker, messages) => {
      const results = await broker.publishBatch(messages)
      for (const result of results) if (result.status !== 'stored') throw result.error
      return results.map(({ id }) => id)
    },
    until: async (condition, what) => {
      const end = clock.monotonic() + guardMs
      while (!(await condition())) {
        if (clock.monotonic() > end) throw new Error(`Waited ${guardMs} ms in vain for: ${what}`)
        await clock.sleep(3)
      }
    },
    untilRead: (broker, topic, group) => stage.until(async () => (await broker.lag(topic, group)).messages === 0, `group ${group} to have read ${topic}`),
    within: async (boundMs, what, work) => {
      const end = new AbortController()
      const late = clock.sleep(boundMs * (exact ? 1 : 20), { signal: end.signal }).then(() => {
        throw new Error(`It took more than ${boundMs} ms${exact ? '' : ', and twenty times that'}: ${what}`)
      })
      late.catch(() => undefined)
      try {
        return await Promise.race([work(), late])
      } finally {
        end.abort()
      }
    },
    gate: () => {
      const gate = deferred()
      gates.push(gate)
      return gate
    },
  }

  const close = async (): Promise<void> => {
    for (const gate of gates) gate.resolve()
    const ending = clients.map(({ client, severed }) => {
      const closed = client.broker.close().catch(() => undefined)
      // Who was cut off tries for a while to say what it cannot.
      return severed ? Promise.resolve() : closed
    })
    await Promise.all(ending)
    const cleaner = await harness.open({ leaseMs })
    const broker = createBroker(cleaner, { clock })
    for (const topic of topics) await broker.deleteTopic(topic).catch(() => undefined)
    await broker.close()
  }
  return [stage, close]
}

/** What cases of a client that will be cut off begin with: it, another that stays, and `n` messages of as many keys in one partition of group g. */
export async function beforeCut(stage: Stage, n: number): Promise<{ client: Client; broker: Broker; topic: string; gate: Deferred<void> }> {
  const client = await stage.client()
  const broker = await stage.broker()
  const topic = stage.topic()
  await broker.createTopic(topic, { partitions: 1, groups: ['g'] })
  await stage.publish(broker, keyed(topic, n, n))
  return { client, broker, topic, gate: stage.gate() }
}

/** Waits between runs that a test can bear. */
export const quick = { initialDelayMs: 4, maxDelayMs: 20, maxAttempts: 3 } as const

/** Expects an error of this code. */
export const code =
  (expected: string): ((error: unknown) => boolean) =>
  (error) =>
    (error as { code?: unknown } | undefined)?.code === expected || assert.fail(`expected ${expected}, got ${thrownText(error)}`)

/** The first completion of each message of a key comes in the order of its sequence number. */
export function assertKeyOrder(done: readonly { readonly key: string | undefined; readonly text: string }[]): void {
  const last = new Map<string, number>()
  for (const { key, text } of done) {
    const [at, before] = [Number(text), last.get(key!) ?? -1]
    if (at > before + 1) assert.fail(`${key}: ${text} was done while ${before + 1} was not`)
    last.set(key!, Math.max(before, at))
  }
}

/** One run, then the dead letters. */
export const once = { initialDelayMs: 4, maxDelayMs: 20, maxAttempts: 1 } as const
