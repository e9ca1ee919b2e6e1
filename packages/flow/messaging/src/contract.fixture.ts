import { after, describe, test } from 'node:test'
import type { Clock } from '#internal/clock'
import { brokerContract, type ContractHarness, type ContractOptions } from './contract.ts'
import type { BrokerDriver, Capabilities } from './driver.ts'
import type { VirtualClock } from './virtual-clock.ts'

/** What came of each case, by driver: said at the end, so that nothing passes by not running. */
const outcomes = new Map<string, Map<string, string>>()
const columns: string[] = []

export interface ContractRun<D extends BrokerDriver> extends ContractOptions {
  capabilities: Capabilities
  /** One for each case. */
  harness: () => ContractHarness<D>
  skip?: string | false
  /** Cases at once: they wait for leases more than they work. @default 1 */
  concurrency?: number
}

/** Every case of the contract as a test of its own. */
export function testContract<D extends BrokerDriver>(
  driver: string,
  { capabilities, harness, skip = false, concurrency = 1, ...options }: ContractRun<D>,
): void {
  columns.push(driver)
  describe(driver, { concurrency }, () => {
    for (const { name, gatedBy, run } of brokerContract(capabilities, options)) {
      const row = outcomes.get(name) ?? new Map<string, string>()
      outcomes.set(name, row)
      row.set(driver, gatedBy === undefined ? (skip === false ? 'FAILED' : `not covered (${skip})`) : `absent (${gatedBy})`)
      test(`${driver}: ${name}`, { skip: gatedBy ?? skip, timeout: 90_000 }, async () => {
        const stage = harness()
        await (isVirtual(stage.clock) ? stage.clock.run(() => run(stage)) : run(stage))
        row.set(driver, 'passed')
      })
    }
  })
}

const isVirtual = (clock: Clock | undefined): clock is VirtualClock => clock !== undefined && 'advance' in clock

after(() => {
  const passed = columns.map((driver) => `${driver}: ${[...outcomes.values()].filter((row) => row.get(driver) === 'passed').length} of ${outcomes.size} passed`)
  const rows = [...outcomes].flatMap(([name, row]) => {
    const others = columns.filter((driver) => row.get(driver) !== 'passed').map((driver) => `${driver} ${row.get(driver) ?? '-'}`)
    return others.length === 0 ? [] : [`\n  ${name}: ${others.join(', ')}`]
  })
  console.log(`The broker contract on ${columns.join(', ')}: what did not pass everywhere${rows.join('')}\n${passed.join('; ')}`)
})
