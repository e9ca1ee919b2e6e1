import { systemClock } from '#internal/clock'
import type { SqlClient } from '#internal/sql'
import type { Inbox, RunTransaction } from './inbox.ts'
import type { Outbox } from './outbox.ts'
import type { PublishedMessage, PublishResult } from './publish.ts'
import type { Relay, RelayOptions } from './relay-types.ts'
import { relay } from './relay.ts'

/** A store under test: empty, and nobody else's. */
export interface OutboxHarness {
  outbox: Outbox
  /** Made with `retentionMs: 60_000` and `clockSkewMs: 0`. */
  inbox: Inbox
  db: SqlClient
  transaction: RunTransaction
  close(): Promise<void>
}

/** What every store must do, as one case. `run` throws when it does not. */
export interface ContractCase {
  name: string
  /** Needs two transactions open at once; a client of one connection cannot run it. */
  concurrent?: true
  /** `guardMs` (default 10,000) is how long it waits for what must happen until it gives up. */
  run(options: { open: () => Promise<OutboxHarness>; guardMs?: number }): Promise<void>
}

const utf8 = new TextEncoder()
export const text = (message: { value: Uint8Array }): string => new TextDecoder().decode(message.value)
export const message = (key: string | undefined, value: string): { topic: string; key?: string; value: Uint8Array } => ({
  topic: 'contract',
  ...(key !== undefined && { key }),
  value: utf8.encode(value),
})

export function equal(actual: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  if (a !== b) throw new Error(`${what}: expected ${b}, got ${a}`)
}

type Until = (condition: () => boolean | Promise<boolean>, what: string) => Promise<void>

const waiting =
  (guardMs: number): Until =>
  async (condition, what) => {
    const end = performance.now() + guardMs
    while (!(await condition())) {
      if (performance.now() > end) throw new Error(`Waited in vain for ${what}`)
      await systemClock.sleep(3)
    }
  }

/** A broker that keeps what it is given and refuses what `refuse` names. */
export function recorder(refuse: (message: PublishedMessage) => PublishResult | undefined = () => undefined): {
  sent: PublishedMessage[]
  texts: (key?: string) => string[]
  publishBatch(messages: readonly PublishedMessage[]): Promise<PublishResult[]>
} {
  const sent: PublishedMessage[] = []
  return {
    sent,
    texts: (key) => sent.filter((m) => key === undefined || m.key === key).map(text),
    async publishBatch(messages) {
      const failed = new Map<string, PublishResult>()
      return messages.map((m) => {
        const lane = `${m.topic}/${m.key ?? m.id}`
        const result = failed.get(lane) ?? refuse(m) ?? { status: 'stored' }
        if (result.status === 'stored') sent.push(m)
        else failed.set(lane, result)
        return result
      })
    },
  }
}

export const refused = (retryable: boolean): PublishResult => ({ status: 'rejected', error: Object.assign(new Error('no'), { code: 'ERR_NO', retryable }) })

export function moving({ outbox, db }: OutboxHarness, publisher: RelayOptions['publisher'], options: Partial<RelayOptions> = {}): Relay {
  return relay({ db, outbox, publisher, pollMs: 3, retry: { initialMs: 1, maxMs: 2 }, backoff: { initialMs: 1, maxMs: 2 }, ...options })
}

interface Tools {
  until: Until
  /** Started here, closed at the end of the case. */
  start(relay: Relay): Promise<Relay>
}

export const define = (name: string, body: (harness: OutboxHarness, tools: Tools) => Promise<void>, concurrent?: true): ContractCase => ({
  name,
  ...(concurrent && { concurrent }),
  async run({ open, guardMs = 10_000 }) {
    const harness = await open()
    const relays: Relay[] = []
    try {
      await body(harness, {
        until: waiting(guardMs),
        start: async (started) => {
          relays.push(started)
          await started.start()
          return started
        },
      })
    } finally {
      await Promise.all(relays.map((started) => started.close()))
      await harness.close()
    }
  },
})

export const empty = async ({ outbox, db }: OutboxHarness): Promise<boolean> => (await outbox.counts(db)).pending === 0
