import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createFailures, type Failure } from './failures.ts'
import type { Row } from './index.ts'

const row = (id: number, topic = 't'): Row => ({ id, topic, lane: `lane ${id}`, partition: 0 }) as Row
const together: Failure = { final: false, othersStored: false, individually: false }
const individually: Failure = { ...together, individually: true }
const failures = (): ReturnType<typeof createFailures> => createFailures(3, { initialMs: 100, maxMs: 1_000, multiplier: 2 }, () => 1)

test('an outage counts against no row, however long it lasts', () => {
  const { failed, attempts, excluded } = failures()
  for (let n = 0; n < 1_000; n++) assert.equal(failed(row(1), together, n), 'wait')
  assert.deepEqual(excluded(0), { lanes: [], topics: [] }, 'nothing waits but the relay itself')
  for (let n = 0; n < 1_000; n++) assert.equal(failed(row(1), individually, n), 'wait')
  assert.equal(attempts(row(1)), 0)
})

test('what is final, and what failed beside others that were stored, counts, and its lane waits longer each time', () => {
  const { failed, excluded } = failures()
  const waiting = (now: number): readonly string[] => excluded(now).lanes
  assert.equal(failed(row(1), { ...together, final: true }, 0), 'wait')
  assert.deepEqual([waiting(99), waiting(100)], [['lane 1'], []])
  assert.equal(failed(row(1), { ...together, othersStored: true }, 100), 'wait')
  assert.deepEqual([waiting(299), waiting(300)], [['lane 1'], []])
  assert.equal(failed(row(1), { ...together, othersStored: true }, 300), 'park')
})

test('a row that was answered for counts once the broker has stored others since; one that failed with its batch does not', () => {
  const { failed, stored, attempts } = failures()
  failed(row(1), individually, 0)
  failed(row(2), together, 0)
  stored(row(3))
  failed(row(1), individually, 0)
  failed(row(2), together, 0)
  assert.deepEqual([attempts(row(1)), attempts(row(2))], [1, 0])
  failed(row(1), individually, 0)
  assert.equal(attempts(row(1)), 1, 'nothing was stored since')
})

test('while nothing is taken each lane has one turn, and a topic one batch before the others have theirs', () => {
  const { failed, excluded, tookNothing, further, anew } = failures()
  const nobody = { lanes: [], topics: [] }
  assert.equal(further(), false)
  failed(row(1, 'a'), individually, 0)
  assert.deepEqual(excluded(0), { lanes: ['lane 1'], topics: [] })
  tookNothing('a')
  assert.deepEqual(excluded(0), { lanes: [], topics: ['a'] })
  failed(row(2, 'b'), together, 0)
  tookNothing('b')
  assert.deepEqual(excluded(0), { lanes: [], topics: ['a', 'b'] })
  assert.equal(further(), true)
  assert.deepEqual(excluded(0), { lanes: ['lane 1'], topics: [] }, 'another of each')
  tookNothing('a')
  assert.deepEqual(excluded(0), { lanes: [], topics: ['a'] }, 'the others still have theirs')
  assert.deepEqual([further(), excluded(0)], [true, { lanes: ['lane 1'], topics: [] }])
  assert.deepEqual([further(), excluded(0), further()], [true, nobody, false], 'from the first one again')
  failed(row(1, 'a'), individually, 0)
  tookNothing('a')
  anew()
  assert.deepEqual([excluded(0), further()], [nobody, false])
})

test('of a topic of which thousands of lanes wait, none is looked for', () => {
  const { failed, excluded, further } = failures()
  for (let id = 1; id <= 2_000; id++) failed(row(id, 'many'), { ...together, othersStored: true }, id)
  failed(row(0, 'few'), { ...together, othersStored: true }, 1_000)
  assert.deepEqual(excluded(100), { lanes: ['lane 0'], topics: ['many'] })
  assert.equal(further(), false)
  assert.deepEqual([excluded(101).topics, excluded(101).lanes.length], [[], 2_000], 'the first may have its next turn')
})

test('a row that was stored, and one whose partition was lost, is forgotten', () => {
  const { failed, stored, attempts, forgetAllBut } = failures()
  for (const id of [1, 2]) failed(row(id), { ...together, final: true }, 0)
  stored(row(1))
  assert.deepEqual([attempts(row(1)), attempts(row(2))], [0, 1])
  forgetAllBut([0])
  assert.equal(attempts(row(2)), 1)
  forgetAllBut([1])
  assert.equal(attempts(row(2)), 0)
})
