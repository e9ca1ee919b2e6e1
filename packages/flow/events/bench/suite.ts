// One event to three handlers: time and bytes for each.
import { join } from 'node:path'
import { type Group, type Suite, versionOf } from '../../../../bench/kit.ts'
import { type Contestant, dispatching, receiving, type Work } from './contestants.ts'

const events = 30_000
const peers = join(import.meta.dirname, 'peers')
const own = '@core-backend/events'

function workOf(asynchronous: boolean): Work {
  const count = ({ data }: { data: { minutes: number } }): void => void (work.seen += data.minutes > 0 ? 1 : 0)
  const handler = asynchronous ? async (event: { data: { minutes: number } }): Promise<void> => count(event) : count
  const work: Work = { seen: 0, handlers: [1, 2, 3].map(() => (event) => handler(event)) }
  return work
}

/** An event is over when its handlers have run: some contestants return before, and would only pile up what they put off. */
async function round(dispatch: () => unknown, work: Work): Promise<{ ns: number; bytes: number }> {
  globalThis.gc!()
  work.seen = 0
  const heap = process.memoryUsage().heapUsed
  const start = process.hrtime.bigint()
  for (let i = 1; i <= events; i++) {
    const running = dispatch()
    if (running instanceof Promise) await running
    for (let turn = 1; work.seen < 3 * i; turn++) await (turn % 100 === 0 ? new Promise((resolve) => void setImmediate(resolve)) : undefined)
  }
  const ns = Number(process.hrtime.bigint() - start) / events
  if (work.seen !== events * 3) throw new Error(`${work.seen} handlers ran instead of ${events * 3}`)
  return { ns, bytes: (process.memoryUsage().heapUsed - heap) / events }
}

function race(title: string, contestants: readonly Contestant[], asynchronous: boolean, figure: 'ns' | 'bytes'): Group {
  const run = async (contestant: Contestant): Promise<number> => {
    const work = workOf(asynchronous)
    const dispatch = await contestant.prepare(work)
    await round(dispatch, work)
    return (await round(dispatch, work))[figure]
  }
  const cases = Object.fromEntries(contestants.map((contestant) => [contestant.name, { about: contestant.does, run: () => run(contestant) }]))
  return { title, unit: `${figure}/event`, better: 'lower', baseline: own, cases }
}

export const suite: Suite = {
  title: 'One event to three handlers',
  about: `${events.toLocaleString('en')} events; the next one follows when all handlers of the last have run.`,
  peers,
  // A young generation so large that no collection falls into a round and hides what was allocated.
  flags: ['--max-semi-space-size=512', '--min-semi-space-size=512'],
  setup: async () => ({
    env: {},
    versions: ['eventemitter3', 'emittery', '@nestjs/cqrs'].map((name) => versionOf(peers, name)).join(', '),
    close: async () => undefined,
  }),
  groups: {
    sync: race('Synchronous handlers', dispatching, false, 'ns'),
    async: race('Asynchronous handlers', dispatching, true, 'ns'),
    bytes: race('From bytes, asynchronous handlers', receiving, true, 'ns'),
    allocated: race('Allocated, asynchronous handlers', dispatching, true, 'bytes'),
  },
}
