import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createFailures, type Failure } from './failures.ts'
import type { Row } from './index.ts'

const row = (id: number): Row => ({ id, lane: `lane ${id}`, partition: 0 }) as Row
const outage: Failure = { final: false, othersStored: false, alone: false }
const failures = (): ReturnType<typeof createFailures> => createFailures(3, { initialMs: 100, maxMs: 1_000, multiplier: 2 }, () => 1)

test('an outage counts against no row, however long it lasts', () => {
  const { failed, attempts, waiting } = failures()
  for (let n = 0; n < 1_000; n++) assert.equal(failed(row(1), { ...outage, alone: n % 2 === 0 }, n), 'wait')
  assert.equal(attempts(row(1)), 0)
  assert.deepEqual(waiting(0), [], 'nothing waits but the relay itself')
})

test('what is final, and what failed beside others that were stored, counts, and its lane waits longer each time', () => {
  const { failed, waiting } = failures()
  assert.equal(failed(row(1), { ...outage, final: true }, 0), 'wait')
  assert.deepEqual([waiting(99), waiting(100)], [['lane 1'], []])
  assert.equal(failed(row(1), { ...outage, othersStored: true }, 100), 'wait')
  assert.deepEqual([waiting(299), waiting(300)], [['lane 1'], []])
  assert.equal(failed(row(1), { ...outage, othersStored: true }, 300), 'park')
})

test('a row that fails alone counts once the broker has stored others since; one that fails with others does not', () => {
  const { failed, stored, attempts } = failures()
  failed(row(1), { ...outage, alone: true }, 0)
  failed(row(2), outage, 0)
  stored(row(3))
  failed(row(1), { ...outage, alone: true }, 0)
  failed(row(2), outage, 0)
  assert.deepEqual([attempts(row(1)), attempts(row(2))], [1, 0])
  failed(row(1), { ...outage, alone: true }, 0)
  assert.equal(attempts(row(1)), 1, 'nothing was stored since')
})

test('a row that was stored, and one whose partition was lost, is forgotten', () => {
  const { failed, stored, attempts, forgetAllBut } = failures()
  for (const id of [1, 2]) failed(row(id), { ...outage, final: true }, 0)
  stored(row(1))
  assert.deepEqual([attempts(row(1)), attempts(row(2))], [0, 1])
  forgetAllBut([0])
  assert.equal(attempts(row(2)), 1)
  forgetAllBut([1])
  assert.equal(attempts(row(2)), 0)
})
