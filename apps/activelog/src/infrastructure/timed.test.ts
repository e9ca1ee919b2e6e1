import assert from 'node:assert/strict'
import { test } from 'node:test'
import { timed } from './timed.ts'

test('tells how long the oldest statement waits, until it is answered or fails', async () => {
  let now = 0
  const answers: PromiseWithResolvers<{ rows: unknown[] }>[] = []
  const db = timed({ query: () => (answers.push(Promise.withResolvers()), answers.at(-1)!.promise) }, () => now)
  assert.equal(db.waitingMs(), 0)
  const first = db.query('SELECT 1')
  now = 3
  const second = db.query('SELECT 2')
  now = 10
  assert.equal(db.waitingMs(), 10)
  answers[0]!.reject(new Error('cut'))
  await assert.rejects(first, /cut/)
  assert.equal(db.waitingMs(), 7)
  answers[1]!.resolve({ rows: [2] })
  assert.deepEqual(await second, { rows: [2] })
  assert.equal(db.waitingMs(), 0)
})
