import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createHorizon } from './horizon.ts'

const row = (partition: number, id: number): { partition: number; id: number } => ({ partition, id })

test('an id is behind us only when every transaction that may have taken it has ended', () => {
  const horizon = createHorizon()
  horizon.look({ last: 100, writers: ['a'] })
  horizon.look({ last: 200, writers: ['a', 'b'] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 0, 'a and b may still bring ids up to 100')
  horizon.look({ last: 300, writers: ['b', 'c'] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 0, 'b may')
  horizon.look({ last: 400, writers: ['c'] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 100, 'neither may: c came later')
})

test('the highest id counts only together with writers that were seen after it', () => {
  const horizon = createHorizon()
  horizon.look({ last: 100, writers: [] })
  horizon.read([0], [], false)
  assert.equal(horizon.low(0), 0, 'somebody may have taken id 100 between the reading of the two')
})

test('a row that is still there keeps its partition back, and so does the limit that cut off the rest', () => {
  const horizon = createHorizon()
  for (let i = 0; i < 3; i++) horizon.look({ last: 1_000, writers: [] })
  horizon.read([0, 1, 2], [row(0, 10), row(1, 20), row(0, 30)], true)
  assert.deepEqual([0, 1, 2].map(horizon.low), [9, 19, 29])
  horizon.read([0, 1, 2], [row(0, 30)], false)
  assert.deepEqual([0, 1, 2].map(horizon.low), [29, 1_000, 1_000])
})

test('a partition in which old ids came up again is read from the start, and every one now and then', () => {
  const horizon = createHorizon()
  for (let i = 0; i < 3; i++) horizon.look({ last: 1_000, writers: [] })
  horizon.read([0, 1], [], false)
  horizon.reset(0)
  assert.deepEqual([0, 1].map(horizon.low), [0, 1_000])
  for (let i = 0; i < 120; i++) horizon.look({ last: 1_000, writers: [] })
  assert.equal(horizon.low(1), 0)
})
