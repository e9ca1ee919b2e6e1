import { after } from 'node:test'
import { openDatabase } from '@core-backend/testkit/postgres'
import { testContract } from './contract.fixture.ts'
import { postgresHarness, postgresOptions } from './contract.postgres.fixture.ts'

const database = await openDatabase('pg18', { max: 20 })
after(() => database.close())
testContract('pg18', { ...postgresOptions, leaseMs: 800, concurrency: 6, harness: () => postgresHarness(database.client, 50) })
