import { type Clock, systemClock } from '#internal/clock'
import type { ContractHarness, ContractOptions, ForeignMessage } from './contract.ts'
import type { BrokerDriver, OutgoingMessage } from './driver.ts'
import { failPublish } from './faults.ts'
import { memoryDriver, type MemoryDriverOptions } from './memory.ts'
import { memoryStore } from './memory-store.ts'

/** What the harnesses here can do, and say of their drivers. */
export const memoryOptions: ContractOptions = { leaseMs: 400, refuse: true, inject: true }

export interface Refusing {
  clock: Clock
  refused: ReadonlySet<string>
}

/** One memory store and its clients, for one case. `around` may put something between them and the engine. */
export function memoryHarness(
  { clock = systemClock, ...options }: MemoryDriverOptions = {},
  around: (driver: BrokerDriver, parts: Refusing) => BrokerDriver = (driver, { refused }) => failPublish(driver, { when: ({ id }) => refused.has(id) }),
): ContractHarness {
  const store = memoryStore({ clock })
  const clients = new Map<BrokerDriver, { sever(): void; refused: Set<string> }>()
  return {
    clock,
    messages: 50,
    open: ({ leaseMs }) => {
      const refused = new Set<string>()
      const inner = memoryDriver({ ...options, store, leaseMs })
      const driver = around(inner, { clock, refused })
      clients.set(driver, { sever: inner.sever, refused })
      return driver
    },
    sever: (driver) => clients.get(driver)!.sever(),
    inject: async (topic, message) => {
      const [result] = await memoryDriver({ store }).publish([foreign(topic, message)], { signal: new AbortController().signal })
      if (result!.status !== 'stored') throw result!.error
    },
    refuse: (driver, ids) => ids.forEach((id) => clients.get(driver)!.refused.add(id)),
  }
}

let strangers = 0

/** As a driver would make it of a message that another tool stored: what is no text stays raw. */
export function foreign(topic: string, { key, value, headers }: ForeignMessage): OutgoingMessage {
  return {
    id: `foreign-${++strangers}`,
    topic,
    key: undefined,
    value,
    headers: {},
    timestamp: 0,
    tombstone: false,
    deliverAt: undefined,
    dedupeId: undefined,
    rawKey: key,
    rawHeaders: headers.length > 0 ? headers : undefined,
  }
}
