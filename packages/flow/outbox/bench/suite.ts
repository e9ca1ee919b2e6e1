import { versionOf, type Suite } from '../../../../bench/kit.ts'
import { postgresWorld } from '../../../../bench/postgres.ts'
import { adding, addingTogether } from './add.ts'
import { backlog, draining } from './drain.ts'
import { lags } from './lag.ts'
import { peers } from './tables.ts'

export const suite: Suite = {
  title: 'outbox, measured',
  about: 'Each row says what it promises: a faster one that promises less is a floor, not a competitor.',
  peers,
  groups: { adding, addingTogether, draining, backlog, lags },
  setup: async () => {
    const world = await postgresWorld()
    return { ...world, versions: [world.versions, ...['pg', 'pg-boss', 'graphile-worker'].map((name) => versionOf(peers, name))].join(', ') }
  },
}
