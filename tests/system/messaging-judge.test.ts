// The judge of the chaos runs, on journals that tell of one fault each: what it cannot see, no run can fail for.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Entry, Fact } from './messaging-journal.ts'
import { type Case, judge } from './messaging-judge.ts'

let clock = 0
const by = (pid: number, fact: Fact): Entry => ({ ...fact, at: ++clock, pid })
const published = (...ids: string[]): Entry[] =>
  ids.map((id) => by(1, { e: 'published', sentAt: clock, id, key: id[0]!, seq: Number(id.slice(1)), status: 'stored' }))
const assigned = (pid: number, epoch: number): Entry => by(pid, { e: 'assigned', partition: 0, epoch })
/** `a2` of the key `a` stands at 2. */
const handled = (pid: number, epoch: number, ...ids: string[]): Entry[] =>
  ids.flatMap((id) => {
    const place = { id, partition: 0, epoch, position: Number(id.slice(1)) }
    return [by(pid, { e: 'start', ...place, attempt: 1, slow: false }), by(pid, { e: 'done', ...place, key: id[0]!, seq: place.position, fetchedAt: clock })]
  })
const settled = (pid: number, epoch: number, watermark: number | undefined, ...above: number[]): Entry =>
  by(pid, { e: 'settled', partition: 0, epoch, watermark, above })
const verdict = (entries: Entry[], more: Partial<Case> = {}): ReturnType<typeof judge> =>
  judge({ entries, faults: [], letters: [], expectedLetters: [], ...more })

test('a run in which all went well holds', () => {
  const { failures, ...row } = verdict([...published('a1', 'a2'), assigned(2, 1), ...handled(2, 1, 'a1', 'a2'), settled(2, 1, 2)])
  assert.deepEqual(failures, [])
  assert.deepEqual(row, { faults: 0, confirmed: 2, handled: 2, duplicates: 0, inFlight: 0, disorders: 0, letters: 0, recoveryMs: undefined })
})

test('a confirmed message that nobody handled is lost, a dead letter is not', () => {
  const entries = [...published('a1', 'a2'), assigned(2, 1), ...handled(2, 1, 'a1'), settled(2, 1, 1)]
  assert.match(verdict(entries).failures.join(), /^lost: a2/)
  const letters = [{ id: 'a2', code: 'ERR_MESSAGING_CRASH_LOOP' }]
  assert.deepEqual(verdict(entries, { letters, expectedLetters: ['a2'] }).failures, [])
  assert.match(verdict(entries, { letters }).failures.join(), /a2 became a dead letter/)
})

test('what was in flight may be repeated, what was settled may not', () => {
  const again = (settlement: Entry): Entry[] => [
    ...published('a1', 'a2'),
    assigned(2, 1),
    ...handled(2, 1, 'a1', 'a2'),
    settlement,
    assigned(3, 2),
    ...handled(3, 2, 'a2'),
    settled(3, 2, 2),
  ]
  const allowed = verdict(again(settled(2, 1, 1)))
  assert.deepEqual([allowed.duplicates, allowed.inFlight, allowed.failures], [1, 1, []])
  assert.match(verdict(again(settled(2, 1, 2))).failures.join(), /^repeated: a2/)
  assert.match(verdict(again(settled(2, 1, undefined, 2, 1))).failures.join(), /^repeated: a2/)
})

test('order is judged on first completions, and a zombie has none', () => {
  const first = [...published('a1', 'a2'), assigned(2, 1)]
  assert.match(verdict([...first, ...handled(2, 1, 'a2', 'a1')]).failures.join(), /^out of order: a1/)
  assert.deepEqual(verdict([...first, ...handled(2, 1, 'a1', 'a2', 'a1')]).disorders, 0)
  const zombie = [...first, assigned(3, 2), ...handled(2, 1, 'a2')]
  assert.match(verdict([...zombie, ...handled(3, 2, 'a1')]).failures.join(), /^lost: a2/)
  assert.deepEqual(verdict([...zombie, ...handled(3, 2, 'a1', 'a2')]).failures, [])
})

test('a settlement that is stored for who had lost the partition is a failure', () => {
  const entries = [assigned(2, 1), assigned(3, 2), by(2, { e: 'accepted', partition: 0, epoch: 1, probe: true })]
  assert.match(verdict(entries).failures.join(), /epoch 1 was stored/)
})

test('what was finished long before its process was killed must have been settled', () => {
  const entries = [...published('a1'), assigned(2, 1), ...handled(2, 1, 'a1'), assigned(3, 2), ...handled(3, 2, 'a1'), settled(3, 2, 1)]
  assert.deepEqual(verdict(entries, { faults: [{ at: clock + 100, pid: 2 }] }).failures, [])
  assert.match(verdict(entries, { faults: [{ at: clock + 60_000, pid: 2 }] }).failures.join(), /^not flushed: a1/)
})

test('recovery is from the fault to what was fetched after it, where it hit', () => {
  const entries = [...published('a1', 'a2'), assigned(2, 1), ...handled(2, 1, 'a1')]
  const at = (clock += 10)
  const { recoveryMs } = verdict([...entries, assigned(3, 2), ...handled(3, 2, 'a2')], { faults: [{ at, pid: 2 }] })
  assert.equal(recoveryMs, 3)
})
