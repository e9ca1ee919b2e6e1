import { after } from 'node:test'
import { openDatabase } from '@core-backend/testkit/postgres'
import { skipUnless } from '@core-backend/testkit/services'
import { postgresHarness, postgresOptions } from './contract.postgres.fixture.ts'
import { testContract } from './contract.fixture.ts'

const needs = { pg18: false, pg15: skipUnless('postgres'), pglite: false, pgbouncer: skipUnless('pgbouncer') } as const

// PGlite runs its statements on this thread: side by side, cases would outlast each other's leases.
for (const flavour of ['pg18', 'pg15', 'pglite', 'pgbouncer'] as const) {
  const skip = needs[flavour]
  const database = skip === false ? await openDatabase(flavour, { max: 20 }) : undefined
  after(() => database?.close())
  testContract(flavour, { ...postgresOptions, skip, concurrency: flavour === 'pglite' ? 1 : 4, harness: () => postgresHarness(database!.client, 1_000) })
}
