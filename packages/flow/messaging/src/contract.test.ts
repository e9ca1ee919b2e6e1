import { testContract } from './contract.fixture.ts'
import type { BrokerDriver, Capabilities } from './driver.ts'
import { failPublish, reorder } from './faults.ts'
import { memoryDriver } from './memory.ts'
import { memoryHarness, memoryOptions } from './memory.fixture.ts'
import { virtualClock } from './virtual-clock.ts'

const { capabilities } = memoryDriver()
testContract('memory', { ...memoryOptions, capabilities, concurrency: 8, harness: () => memoryHarness() })
testContract('memory, virtual clock', { ...memoryOptions, capabilities, harness: () => memoryHarness({ clock: virtualClock() }) })
testContract('memory as postgres', {
  ...memoryOptions,
  capabilities: memoryDriver({ emulate: 'postgres' }).capabilities,
  harness: () => memoryHarness({ emulate: 'postgres', clock: virtualClock() }),
})

// Everything a broker may lack, so that the other side of each capability is kept too: no history, no delays, no dedupe, batches in any order.
const little: Capabilities = { ...capabilities, history: false, delay: undefined, dedupe: undefined, batchOrder: false, publish: { maxBatch: 7, inFlight: 1 } }
const belittle = (driver: BrokerDriver, { refused }: { refused: ReadonlySet<string> }): BrokerDriver => ({
  ...failPublish(reorder(driver, { rate: 0.5 }), { when: ({ id }) => refused.has(id) }),
  capabilities: little,
})
testContract('memory, with little', { ...memoryOptions, capabilities: little, harness: () => memoryHarness({ clock: virtualClock() }, belittle) })
