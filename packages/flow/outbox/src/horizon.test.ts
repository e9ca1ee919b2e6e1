import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createHorizon } from './horizon.ts'

const looked = (last: number, origin = 'a'): { origin: string; last: number; writers: string[] } => ({ origin, last, writers: [] })
const row = (partition: number, id: number): { partition: number; id: number } => ({ partition, id })

test('an id is behind us only when every transaction that may have taken it has ended', () => {
  const horizon = createHorizon()
  horizon.look({ origin: 'a', last: 100, writers: ['a'] })
  horizon.look({ origin: 'a', last: 200, writers: ['a', 'b'] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 0, 'a and b may still bring ids up to 100')
  horizon.look({ origin: 'a', last: 300, writers: ['b', 'c'] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 0, 'b may')
  horizon.look({ origin: 'a', last: 400, writers: ['c'] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 100, 'neither may: c came later')
})

test('the highest id counts only together with writers that were seen after it', () => {
  const horizon = createHorizon()
  horizon.look({ origin: 'a', last: 100, writers: [] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 0, 'somebody may have taken id 100 between the reading of the two')
})

test('a row that is still there keeps its partition back, and so does the limit that cut off the rest', () => {
  const horizon = createHorizon()
  for (let i = 0; i < 3; i++) horizon.look({ origin: 'a', last: 1_000, writers: [] })
  horizon.read([0, 1, 2], [row(0, 10), row(1, 20), row(0, 30)], true)
  assert.deepEqual([0, 1, 2].map(horizon.low), [9, 19, 29])
  horizon.read([0, 1, 2], [row(0, 30)], false)
  assert.deepEqual([0, 1, 2].map(horizon.low), [29, 1_000, 1_000])
})

test('a partition in which old ids came up again is read from the start, and every one now and then', () => {
  const horizon = createHorizon()
  for (let i = 0; i < 3; i++) horizon.look({ origin: 'a', last: 1_000, writers: [] })
  horizon.read([0, 1], [], false)
  horizon.reset(0)
  assert.deepEqual([0, 1].map(horizon.low), [0, 1_000])
  assert.equal(horizon.walked(horizon.walk(), undefined), true)
  assert.equal(horizon.walk().low > 0, true)
  for (let i = 0; i < 120; i++) horizon.look({ origin: 'a', last: 1_000, writers: [] })
  assert.deepEqual([horizon.low(1), horizon.walk().low], [0, 0])
})

const believing = (): ReturnType<typeof createHorizon> => {
  const horizon = createHorizon()
  for (let i = 0; i < 3; i++) horizon.look(looked(1_000))
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 1_000)
  return horizon
}
const low = (horizon: ReturnType<typeof createHorizon>): number => {
  horizon.read([0], [], false)
  return horizon.low(0)
}

for (const [what, happen] of [
  ['ids begin anew', (horizon) => horizon.look(looked(500))],
  ['the server is another, however far it is', (horizon) => horizon.look(looked(2_000, 'b'))],
  ['what happened meanwhile is not known', (horizon) => horizon.forget()],
] as [what: string, happen: (horizon: ReturnType<typeof createHorizon>) => void][])
  test(`when ${what}, all that was believed is forgotten`, () => {
    const horizon = believing()
    happen(horizon)
    assert.equal(horizon.low(0), 0)
    assert.equal(low(horizon), 0, 'nor does what was safe come back')
    horizon.look({ origin: 'b', last: 2_100, writers: ['w'] })
    horizon.look({ origin: 'b', last: 2_200, writers: ['w'] })
    assert.equal(low(horizon), 0, 'nor a number from before, with writers from after')
    horizon.look({ origin: 'b', last: 2_300, writers: [] })
    assert.ok(low(horizon) >= 2_000, 'until it is learnt anew')
  })

test('a walk through what is left out goes in steps to the end, and begins again where nothing can appear behind it', () => {
  const horizon = createHorizon()
  for (let i = 0; i < 3; i++) horizon.look(looked(250_000))
  const steps: number[] = []
  for (let over = false; !over;) {
    const step = horizon.walk()
    steps.push(step.low)
    over = horizon.walked(step, undefined)
  }
  assert.deepEqual([steps, horizon.walk().low], [[0, 100_000, 200_000], 250_000])
  horizon.look(looked(400_000))
  assert.equal(horizon.walked(horizon.walk(), 300_000), true)
  assert.equal(horizon.walk().low, 250_000, 'what comes later may have a lower id')
  horizon.walkAnew()
  assert.equal(horizon.walk().low, 0, 'when less is left out')
  assert.equal(horizon.walked(horizon.walk(), 7), true)
  assert.equal(horizon.walk().low, 6, 'what was found may still be there')
  horizon.reset(0)
  assert.equal(horizon.walk().low, 0, 'when old ids came back')
})
