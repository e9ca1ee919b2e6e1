import assert from 'node:assert/strict'
import { test } from 'node:test'
import { virtualClock } from './virtual-clock.ts'

test('time stands still until it is told to move, and then what falls due happens in order', async () => {
  const clock = virtualClock(1_000)
  const log: string[] = []
  const note = (ms: number, name: string) => void clock.sleep(ms).then(() => log.push(`${name}@${clock.now()}`))
  note(30, 'c')
  note(10, 'a')
  note(10, 'b')
  note(-5, 'now')
  await new Promise(setImmediate)
  assert.deepEqual(log, [])
  await clock.advance(10)
  assert.deepEqual(log, ['now@1000', 'a@1010', 'b@1010'])
  await clock.advance(19)
  assert.equal(log.length, 3)
  await clock.advance(1)
  assert.equal(log.at(-1), 'c@1030')
  assert.deepEqual([clock.now(), clock.monotonic(), clock.sleeping], [1_030, 30, 0])
})

test('what a timer leads to happens before the next timer, timers that it starts included', async () => {
  const clock = virtualClock(0)
  const log: string[] = []
  const chain = async (name: string): Promise<void> => {
    for (let i = 0; i < 3; i++) {
      await clock.sleep(10)
      for (let j = 0; j < 20; j++) await Promise.resolve()
      log.push(`${name}${i}@${clock.now()}`)
    }
  }
  const both = [chain('a'), chain('b')]
  await clock.advance(1_000)
  await Promise.all(both)
  assert.deepEqual(log, ['a0@10', 'b0@10', 'a1@20', 'b1@20', 'a2@30', 'b2@30'])
})

test('an aborted sleep rejects with the reason and is forgotten', async () => {
  const clock = virtualClock()
  const stop = new AbortController()
  const reason = new Error('enough')
  const sleeping = clock.sleep(10, { signal: stop.signal, background: true })
  stop.abort(reason)
  await assert.rejects(sleeping, reason)
  await assert.rejects(clock.sleep(1, { signal: stop.signal }), reason)
  assert.equal(clock.sleeping, 0)
})

test('run moves from timer to timer until the work is done, and gives its result or its error', async () => {
  const clock = virtualClock(0)
  assert.equal(await clock.run(() => clock.sleep(86_400_000).then(() => clock.now())), 86_400_000)
  await assert.rejects(
    clock.run(async () => {
      await clock.sleep(5)
      throw new Error('no')
    }),
    { message: 'no' },
  )
  await assert.rejects(
    clock.run(() => new Promise(() => undefined)),
    /no timer will bring/,
  )
})

test('after a jump the timers that were missed fire late, at the new time', async () => {
  const clock = virtualClock(0)
  const log: number[] = []
  void clock.sleep(10).then(() => log.push(clock.now()))
  const jump = clock.jump(100)
  assert.deepEqual([clock.now(), log], [100, []])
  await jump
  assert.deepEqual(log, [100])
})

test('time does not go back', () => {
  for (const ms of [-1, Number.NaN]) {
    assert.throws(() => virtualClock().advance(ms), RangeError)
    assert.throws(() => virtualClock().jump(ms), RangeError)
  }
})
