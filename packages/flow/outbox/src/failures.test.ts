import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createFailures, type Failures, type Send } from './failures.ts'
import type { Row } from './index.ts'
import type { SendResult } from './publish.ts'

const row = (id: number, topic = 't'): Row => ({ id, topic, lane: `lane ${id}`, partition: 0 }) as Row
const rows = (n: number, topic: string, from = 1): Row[] => Array.from({ length: n }, (_, i) => row(from + i, topic))
const error = new Error('no')
const final = Object.assign(new Error('never'), { retryable: false })
const create = (): Failures =>
  createFailures({
    maxAttempts: 3,
    retry: { initialMs: 100, maxMs: 1_000, multiplier: 2 },
    backoff: { initialMs: 50, maxMs: 1_000, multiplier: 2 },
    batch: 8,
    random: () => 1,
  })

/** Settles a send whose rows with these ids fail; the others are stored. */
function fail(
  failures: Failures,
  send: Send,
  ids: readonly number[],
  now = 0,
  { individually = true, of = error }: { individually?: boolean; of?: Error } = {},
) {
  const status = of === final ? 'rejected' : 'unknown'
  const results = send.rows.map(({ id }): SendResult => (ids.includes(id) ? { status, error: of } : { status: 'stored' }))
  return failures.settle(send, { results, individually }, now)
}
const together = (...given: Row[]): Send => ({ rows: given, apart: undefined })
const ids = ({ rows: sent }: Send): number[] => sent.map(({ id }) => id)

/** A look that finds these, and what is sent of them. */
function see(failures: Failures, found: readonly Row[], now = 0): readonly Send[] {
  const { topics, lanes, limit } = failures.look(now)
  const seen = found.filter(({ topic, lane }) => !topics.includes(topic) && !lanes.includes(lane)).slice(0, limit)
  failures.looked(seen, { full: seen.length === limit || topics.length > 0, over: true }, now)
  return failures.sends(seen)
}

test('an outage counts against no row, however long it lasts', () => {
  const failures = create()
  for (let n = 0; n < 1_000; n++) assert.deepEqual(fail(failures, together(row(1)), [1], n, { individually: false }).poison, [])
  for (let n = 0; n < 1_000; n++) assert.deepEqual(fail(failures, together(row(1)), [1], n).poison, [])
  assert.equal(failures.attempts(row(1)), 0)
})

test('what is final, and what failed beside others that were stored, counts, and its lane waits longer each time', () => {
  const failures = create()
  const waiting = (now: number): readonly string[] => failures.look(now).lanes
  const verdict = fail(failures, together(row(1)), [1], 0, { of: final })
  assert.deepEqual([verdict.refused, verdict.poison], [true, []])
  assert.deepEqual([waiting(99), waiting(100)], [['lane 1'], []])
  fail(failures, together(row(1), row(2)), [1], 100)
  assert.deepEqual([waiting(299), waiting(300)], [['lane 1'], []])
  assert.deepEqual(fail(failures, together(row(1), row(3)), [1], 300).poison, [{ row: row(1), error }])
})

test('a row that was answered for counts once the broker has stored others since; one that failed with its batch does not', () => {
  const failures = create()
  fail(failures, together(row(1)), [1])
  fail(failures, together(row(2)), [2], 0, { individually: false })
  fail(failures, together(row(3)), [])
  fail(failures, together(row(1)), [1])
  fail(failures, together(row(2)), [2], 0, { individually: false })
  assert.deepEqual([failures.attempts(row(1)), failures.attempts(row(2))], [1, 0])
  fail(failures, together(row(1)), [1])
  assert.equal(failures.attempts(row(1)), 1, 'nothing was stored since')
})

test('a topic that took nothing is sent by itself beside the others, no sooner than its pause is over, until it has taken all', () => {
  const failures = create()
  const [mixed] = see(failures, [...rows(3, 'bad'), ...rows(3, 'good', 11)])
  assert.deepEqual(ids(mixed!), [1, 2, 3, 11, 12, 13])
  fail(failures, mixed!, [1, 2, 3], 0, { individually: false })
  assert.equal(failures.calm(), false)
  assert.deepEqual(see(failures, rows(3, 'good', 21), 49).map(ids), [[21, 22, 23]])
  assert.deepEqual(failures.look(49).topics, ['bad'])
  // Each of them counts, since others were stored: they wait longer than the topic.
  const sends = see(failures, [row(4, 'bad'), row(31, 'good')], 50)
  assert.deepEqual(
    sends.map((one) => [one.apart, ids(one)]),
    [
      [undefined, [31]],
      ['new', [4]],
    ],
  )
  assert.deepEqual(failures.look(10_000).topics, ['bad'], 'while it is under way')
  fail(failures, sends[1]!, [], 200)
  assert.equal(failures.calm(), true)
  assert.deepEqual(see(failures, [row(32, 'good')], 200).map(ids), [[32]], 'first those above suspicion')
  const again = see(failures, [row(2, 'bad'), row(3, 'bad'), row(5, 'bad')], 200)
  assert.deepEqual(
    again.map((one) => [one.apart, ids(one)]),
    [
      ['new', [5]],
      ['again', [2, 3]],
    ],
  )
  for (const one of again) fail(failures, one, [], 300)
  failures.forget(row(1)) // parked
  see(failures, [], 300)
  see(failures, [], 300)
  assert.deepEqual(see(failures, [row(6, 'bad'), row(33, 'good')], 300).map(ids), [[6, 33]])
})

test('a row that hangs again and again holds up neither another topic nor another of its own', () => {
  const failures = create()
  const [mixed] = see(failures, [row(1, 'half'), row(2, 'half'), row(3, 'good')])
  fail(failures, mixed!, [1])
  const flow = (now: number): (string | undefined)[] => see(failures, [row(1, 'half'), row(now, 'half'), row(now + 1, 'good')], now).map(({ apart }) => apart)
  assert.deepEqual(flow(1_000), [undefined, 'new', 'again'])
  // The one that failed is still under way.
  assert.deepEqual(failures.look(2_000).topics, ['half'])
})

test('a look reads no more than is sent while only a topic under suspicion is there, and as much as ever when there are others', () => {
  const failures = create()
  fail(failures, together(row(1, 'bad')), [1], 0, { individually: false })
  const [alone] = see(failures, [row(1, 'bad')], 1_000)
  fail(failures, alone!, [1], 1_000, { individually: false })
  see(failures, [], 3_000)
  assert.equal(failures.look(3_000).limit, 1)
  see(failures, [row(5, 'good')], 3_000)
  assert.equal(failures.look(3_000).limit, 8)
})

test('rows that failed and are gone, published or deleted by somebody else, leave no topic under suspicion', () => {
  const failures = create()
  fail(failures, together(row(1, 'bad')), [1], 0, { individually: false })
  assert.equal(failures.calm(), false)
  see(failures, [], 1_000)
  assert.equal(failures.calm(), true)
})

test('a topic that spoils its sends is sent in halves down to the row that does it, which then goes by itself and is found', () => {
  const failures = create()
  const spoils = (one: Send): boolean => one.rows.some(({ id }) => id === 1)
  const left = new Map(rows(8, 't').map((one) => [one.id, one]))
  const sizes: number[] = []
  let poison = 0
  for (let now = 0; poison === 0 && now < 100_000; now += 100)
    for (const one of see(failures, [...left.values()], now)) {
      sizes.push(one.rows.length)
      const verdict = fail(failures, one, spoils(one) ? ids(one) : [], now, { individually: !spoils(one) || one.rows.length === 1 })
      for (const { id } of verdict.stored) left.delete(id)
      poison += verdict.poison.length
      if (left.size === 1) for (const more of rows(8, 't', now + 10)) left.set(more.id, more)
    }
  assert.deepEqual(sizes.slice(0, 4), [8, 4, 2, 1])
  assert.equal(poison, 1)
  assert.equal(failures.attempts(row(1)), 3)
})

test('while a topic takes nothing each of its lanes has one turn before the first has its second', () => {
  const failures = create()
  const found = rows(20, 't')
  const tried: number[] = []
  for (let now = 0; tried.length < 40; now += 1_000)
    for (const one of see(failures, found, now)) {
      tried.push(...ids(one))
      fail(failures, one, ids(one), now)
    }
  assert.deepEqual(
    tried.slice(0, 20),
    found.map(({ id }) => id),
  )
  assert.deepEqual(tried.slice(20, 24), [1, 2, 3, 4])
})

test('of many topics that hang, 32 are under way at a time, and those above suspicion are looked for all the same', () => {
  const failures = create()
  const hanging = Array.from({ length: 40 }, (_, i) => row(i + 1, `hangs ${i}`))
  for (let i = 0; i < 40; i += 8) for (const one of see(failures, hanging.slice(i, i + 8))) fail(failures, one, ids(one), 0, { individually: false })
  let underWay = 0
  for (let i = 0; i < 40; i += 8) {
    underWay += see(failures, hanging.slice(i, i + 8), 1_000).length
    assert.deepEqual(see(failures, [row(99, 'good')], 1_000).map(ids), [[99]])
  }
  assert.equal(underWay, 32)
})

test('of a topic of which thousands of lanes wait, none is looked for', () => {
  const failures = create()
  for (let id = 1; id <= 2_000; id++) fail(failures, together(row(id, 'many'), row(10_000 + id, 'many')), [id], id)
  fail(failures, together(row(9_000, 'few'), row(9_001, 'few')), [9_000], 1_000)
  const { lanes: few, topics: whole } = failures.look(100)
  assert.deepEqual([few, whole], [['lane 9000'], ['many']])
  const { lanes, topics } = failures.look(101)
  assert.deepEqual([topics, lanes.length], [[], 2_000], 'the first may have its next turn')
})

test('a topic of which nothing is left is under suspicion no longer', () => {
  const failures = create()
  fail(failures, together(row(1)), [1])
  failures.forget(row(1)) // parked
  see(failures, [], 1_000)
  assert.equal(failures.calm(), true)
})

test('rows that failed before are paused too while nothing is taken, all of their topic at once, and the topic is not calm meanwhile', () => {
  for (const individually of [true, false]) {
    const failures = create()
    fail(failures, together(row(1), row(2), row(3)), [1, 2])
    let sent = 0
    for (let now = 1_000; now < 11_000; now++)
      for (const one of see(failures, [row(1), row(2)], now)) {
        sent++
        assert.equal(one.apart, 'again')
        assert.deepEqual(fail(failures, one, ids(one), now, { individually }).poison, [])
        assert.equal(failures.calm(), false)
      }
    assert.ok(sent > 10 && sent < 30, String(sent))
  }
})

test('one of those that failed before and now brings their send down is found', () => {
  const failures = create()
  fail(failures, together(row(1), row(2), row(3)), [1, 2])
  const left = new Map([row(1), row(2)].map((one) => [one.id, one]))
  let poison: number[] = []
  for (let now = 1_000; poison.length === 0 && now < 100_000; now += 100) {
    for (const one of see(failures, [...left.values(), row(now, 'other')], now)) {
      const spoils = one.rows.some(({ id }) => id === 1)
      const verdict = fail(failures, one, spoils ? ids(one) : [], now, { individually: !spoils || one.rows.length === 1 })
      for (const { id } of verdict.stored) left.delete(id)
      poison = verdict.poison.map(({ row: { id } }) => id)
    }
  }
  assert.deepEqual([poison, [...left.keys()]], [[1], [1]])
})

test('where a topic is left out a look begins at the first row that is due of those known', () => {
  const failures = create()
  fail(failures, together(row(1, 'bad'), row(2, 'bad'), row(70_001, 'few'), row(70_002, 'few')), [1, 2, 70_001, 70_002])
  see(failures, [], 1_000) // Each had its turn.
  assert.equal(failures.look(1_000).low, 0, 'nothing is left out')
  const [bad] = see(failures, rows(8, 'bad'), 1_000)
  see(failures, [row(80_000, 'good')], 1_000)
  assert.equal(bad!.apart, 'new')
  assert.equal(failures.look(1_000).low, 70_000)
})

test('a topic that took what had failed is under suspicion no longer', () => {
  const failures = create()
  fail(failures, together(row(1, 'few'), row(2, 'good')), [1])
  see(failures, [], 1_000) // It had its turn.
  const [again] = see(failures, [row(1, 'few')], 1_000)
  assert.equal(again!.apart, 'again')
  fail(failures, again!, [], 1_000)
  assert.deepEqual(see(failures, [row(3, 'few'), row(4, 'good')], 1_000).map(ids), [[3, 4]])
})

test('a row that was stored, and one whose partition was lost, is forgotten', () => {
  const failures = create()
  for (const id of [1, 2]) fail(failures, together(row(id)), [id], 0, { of: final })
  fail(failures, together(row(1)), [])
  assert.deepEqual([failures.attempts(row(1)), failures.attempts(row(2))], [0, 1])
  failures.forgetAllBut([0])
  assert.equal(failures.attempts(row(2)), 1)
  failures.forgetAllBut([1])
  assert.equal(failures.attempts(row(2)), 0)
})
