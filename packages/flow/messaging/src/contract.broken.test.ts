import assert from 'node:assert/strict'
import { test } from 'node:test'
import { brokenDrivers } from './broken-drivers.fixture.ts'
import { brokerContract } from './contract.ts'
import { memoryDriver } from './memory.ts'
import { memoryHarness, memoryOptions } from './memory.fixture.ts'
import { virtualClock } from './virtual-clock.ts'

const cases = brokerContract(memoryDriver().capabilities, memoryOptions)

// The same case passes on a driver that keeps its promises, and fails on the one that breaks this promise.
for (const { does, caughtBy, breaks } of brokenDrivers)
  test(`a driver that ${does} is caught by: ${caughtBy}`, async () => {
    const found = cases.find(({ name }) => name.endsWith(` ${caughtBy}`))
    assert.ok(found && found.gatedBy === undefined, 'there is such a case')
    const run = async (around?: typeof breaks): Promise<void> => {
      const clock = virtualClock()
      await clock.run(() => found.run({ ...memoryHarness({ clock }, around), guardMs: 5_000 }))
    }
    await run()
    await assert.rejects(run(breaks))
  })
