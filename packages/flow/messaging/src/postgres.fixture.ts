import type { SqlClient } from '#internal/sql'
import type { BrokerDriver, Consumption, Delivery, OutgoingMessage, Ownership } from './driver.ts'
import { type PostgresDriver, postgresDriver, type PostgresDriverOptions } from './postgres.ts'

/** What the tests of the PostgreSQL driver share: messages, an owner that writes down what it is told, clients that fail on purpose. */

export const never: AbortSignal = new AbortController().signal

export function outgoing(topic: string, id: string, more: Partial<OutgoingMessage> = {}): OutgoingMessage {
  return {
    id,
    topic,
    key: undefined,
    value: new TextEncoder().encode(id),
    headers: {},
    timestamp: 1_700_000_000_000,
    tombstone: false,
    deliverAt: undefined,
    dedupeId: undefined,
    rawKey: undefined,
    rawHeaders: undefined,
    ...more,
  }
}

/** `n` messages named `<prefix>0`, `<prefix>1`, … */
export const series = (topic: string, n: number, prefix = '', more: Partial<OutgoingMessage> = {}): OutgoingMessage[] =>
  Array.from({ length: n }, (_, i) => outgoing(topic, `${prefix}${i}`, more))

export interface Member {
  readonly consumption: Consumption
  /** What it holds, with the epoch. */
  readonly held: Map<number, number>
  readonly lost: string[]
  /** Messages of every partition held until `n` came, or nothing more for the moment when `n` is absent. */
  take(n: number): Promise<Delivery[]>
  /** Settles everything up to these, the last of each partition being its watermark. */
  settle(deliveries: readonly Delivery[]): Promise<readonly string[]>
  /** Lets everything go and leaves. */
  leave(): Promise<void>
}

export async function member(driver: BrokerDriver, topic: string, group: string | undefined): Promise<Member> {
  const held = new Map<number, number>()
  const lost: string[] = []
  const owner: Ownership = {
    assigned: (partition, epoch) => void held.set(partition, epoch),
    revoking: () => undefined,
    lost: (partition, reason) => {
      held.delete(partition)
      lost.push(reason)
    },
    renewed: () => undefined,
  }
  const consumption = await driver.consume(topic, group, owner)
  return {
    consumption,
    held,
    lost,
    take: async (n) => {
      const taken: Delivery[] = []
      while (taken.length < n)
        taken.push(...(await consumption.fetch(new Map([...held.keys()].map((partition) => [partition, n - taken.length])), { signal: never })))
      return taken
    },
    settle: (deliveries) => {
      const last = new Map(deliveries.map((delivery) => [delivery.partition, delivery]))
      return consumption.settle(
        [...last.values()].map((watermark) => ({ partition: watermark.partition, epoch: watermark.epoch, watermark, above: [], settled: [] })),
      )
    },
    leave: async () => {
      for (const [partition, epoch] of held) await consumption.release(partition, epoch)
      await consumption.close()
    },
  }
}

export const ids = (deliveries: readonly Delivery[]): string[] => deliveries.map(({ message }) => message.id)

/** A driver whose process can end as by SIGKILL: nothing more reaches the server. */
export function killable(client: SqlClient, options: Partial<PostgresDriverOptions> = {}): { driver: PostgresDriver; kill(): void } {
  let dead = false
  const driver = postgresDriver({
    ...options,
    client: { query: (text, values) => (dead ? Promise.reject(Object.assign(new Error('killed'), { code: 'ECONNREFUSED' })) : client.query(text, values)) },
  })
  return {
    driver,
    kill: () => {
      dead = true
    },
  }
}

/** Passes statements on; `around` may hold back, repeat or lose what matches. */
export function tampered(client: SqlClient, pattern: RegExp, around: (send: () => Promise<{ rows: unknown[] }>) => Promise<{ rows: unknown[] }>): SqlClient {
  return { query: (text, values) => (pattern.test(text) ? around(() => client.query(text, values)) : client.query(text, values)) }
}
