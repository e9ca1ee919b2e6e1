import type { SqlClient } from '#internal/sql'
import type { ContractHarness, ContractOptions } from './contract.ts'
import type { Capabilities } from './driver.ts'
import { foreign } from './memory.fixture.ts'
import { killable } from './postgres.fixture.ts'
import { type PostgresDriver, postgresDriver } from './postgres.ts'

export const postgresOptions: ContractOptions & { capabilities: Capabilities } = {
  leaseMs: 1_000,
  refuse: true,
  inject: true,
  capabilities: postgresDriver({ client: { query: async () => ({ rows: [] }) } }).capabilities,
}

/** One database and its clients. A client that is severed reaches the server no more; one that refuses gets an error for every statement with such a message. */
export function postgresHarness(client: SqlClient, messages: number): ContractHarness<PostgresDriver> {
  const clients = new Map<PostgresDriver, { kill(): void; refused: Set<string> }>()
  return {
    messages,
    open: ({ leaseMs }) => {
      const refused = new Set<string>()
      const query: SqlClient['query'] = async (text, values) => {
        const sent = refused.size > 0 ? JSON.stringify(values ?? []) : ''
        if ([...refused].some((id) => sent.includes(id))) throw Object.assign(new Error('refused'), { code: '22023', severity: 'ERROR' })
        return client.query(text, values)
      }
      const { driver, kill } = killable({ query }, { leaseMs })
      clients.set(driver, { kill, refused })
      return driver
    },
    sever: (driver) => clients.get(driver)!.kill(),
    inject: async (topic, message) => {
      const driver = postgresDriver({ client })
      const [result] = await driver.publish([foreign(topic, message)], { signal: new AbortController().signal })
      await driver.close()
      if (result!.status !== 'stored') throw result!.error
    },
    refuse: (driver, ids) => ids.forEach((id) => clients.get(driver)!.refused.add(id)),
  }
}
