import assert from 'node:assert/strict'
import { test } from 'node:test'
import { playOnce } from './messaging-chaos.ts'
import { scenarios } from './messaging-scenarios.ts'

// The short run of group X, each scenario on a PostgreSQL 18 of its own; `npm run test:chaos -- messaging` is the full one.
for (const scenario of scenarios)
  if (scenario.quick !== undefined)
    test(`messaging on PostgreSQL: ${scenario.name}: none lost, none out of order, no more duplicates than were in flight`, async () => {
      const { failures } = await playOnce(scenario, scenario.quick!)
      assert.deepEqual(failures, [])
    })
