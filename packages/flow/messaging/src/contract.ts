import { consumeCases } from './contract/consume.ts'
import { delayCases } from './contract/delays.ts'
import { editCases } from './contract/edit.ts'
import { groupCases } from './contract/groups.ts'
import { letterCases } from './contract/letters.ts'
import { lifecycleCases } from './contract/lifecycle.ts'
import { messageCases } from './contract/messages.ts'
import { orderCases } from './contract/order.ts'
import { publishCases } from './contract/publish.ts'
import { replayCases } from './contract/replay.ts'
import { type ContractHarness, type ContractOptions, type Definition, openStage } from './contract/stage.ts'
import { startCases } from './contract/starts.ts'
import { subscribeCases } from './contract/subscribe.ts'
import { topicCases } from './contract/topics.ts'
import type { BrokerDriver, Capabilities } from './driver.ts'

export type { ContractHarness, ContractOptions, ForeignMessage } from './contract/stage.ts'

/** One promise of every driver. `run` throws when it is not kept. */
export interface ContractCase {
  readonly name: string
  /** Why it does not apply to a driver that declares what this one does: to be printed, not forgotten. */
  readonly gatedBy: string | undefined
  run<D extends BrokerDriver>(harness: ContractHarness<D>): Promise<void>
}

const groups: Readonly<Record<string, readonly Definition[]>> = {
  A: [...messageCases, ...publishCases],
  B: [...orderCases, ...consumeCases, ...subscribeCases],
  C: [...groupCases, ...startCases, ...topicCases],
  D: lifecycleCases,
  E: [...letterCases, ...replayCases, ...editCases, ...delayCases],
}

/**
 * What every driver must do, as cases for any test runner:
 * `for (const { name, gatedBy, run } of brokerContract(driver.capabilities)) test(name, { skip: gatedBy }, () => run({ open, sever }))`.
 * Cases use topics of their own and delete them; one store serves all, side by side too.
 */
export function brokerContract(capabilities: Capabilities, options: ContractOptions = {}): readonly ContractCase[] {
  return Object.entries(groups).flatMap(([letter, definitions]) =>
    definitions.map((definition, i): ContractCase => ({
      name: `${letter}${i + 1} ${definition.name}`,
      gatedBy: gate(definition, capabilities, options),
      run: (harness) => runCase(harness, capabilities, definition, options),
    })),
  )
}

function gate({ needs, leases }: Definition, capabilities: Capabilities, options: ContractOptions): string | undefined {
  return needs?.(capabilities, options) ?? (leases && options.leaseMs === undefined ? 'the harness gives no leaseMs' : undefined)
}

async function runCase<D extends BrokerDriver>(
  harness: ContractHarness<D>,
  capabilities: Capabilities,
  { leases, run }: Definition,
  { leaseMs }: ContractOptions,
): Promise<void> {
  const [stage, close] = await openStage(harness, capabilities, leases ? leaseMs : undefined)
  try {
    // A promise that a driver never settles must end the case too.
    await stage.within((harness.guardMs ?? 20_000) * 3, 'the whole case', () => run(stage))
  } finally {
    await stage.within(60_000, 'closing the clients of the case', close)
  }
}
