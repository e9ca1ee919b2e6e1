import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deferred } from '#internal/abort'
import { virtualClock } from '../virtual-clock.ts'
import { statements } from './statements.ts'
import { createNotifier, type Listen } from './wake.ts'

const open = (listen: Listen) => {
  const clock = virtualClock()
  const connection = { run: () => assert.fail('nothing to say') }
  const notifier = createNotifier({ connection, sql: statements('s'), clock, schema: 's', listen, notify: false, statementMs: 1_000, onWake: () => undefined })
  notifier.start()
  return { clock, notifier }
}

test('closing waits no longer than a statement for a listen that does not answer; one that answers later is ended then', async () => {
  const answer = deferred<() => Promise<void>>()
  const { clock, notifier } = open(() => answer.promise)
  let [closed, stopped] = [false, false]
  void notifier.close().then(() => (closed = true))
  await clock.advance(999)
  assert.equal(closed, false)
  await clock.advance(1)
  assert.equal(closed, true)
  answer.resolve(async () => void (stopped = true))
  await clock.advance(0)
  assert.deepEqual([stopped, notifier.listening], [true, false])
})

test('closing waits no longer than a statement for the end of listening', async () => {
  const { clock, notifier } = open(async () => () => new Promise(() => undefined))
  await clock.advance(0)
  assert.equal(notifier.listening, true)
  let closed = false
  void notifier.close().then(() => (closed = true))
  await clock.advance(1_000)
  assert.equal(closed, true)
  assert.equal(clock.sleeping, 0)
})
