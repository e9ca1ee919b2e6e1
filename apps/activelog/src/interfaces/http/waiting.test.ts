import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitingTime } from './waiting.ts'

test('what waits is as old as it says, but no older than the last look that found nothing so old', () => {
  let now = 100_000
  const waited = waitingTime(() => now)
  assert.equal(waited(40_000), 60_000, 'the first look has nothing to go by')
  now = 110_000
  assert.equal(waited(50_000), 60_000, 'a backlog that moves on is still one')
  now = 120_000
  assert.equal(waited(undefined), 0)
  now = 125_000
  assert.equal(waited(1_000), 5_000, 'an old letter that was replayed')
  now = 140_000
  assert.equal(waited(1_000), 20_000, 'and that is not handled')
  assert.equal(waited(130_000), 10_000)
  now = 150_000
  assert.equal(waited(1_000), 10_000)
  assert.equal(waited(200_000), 0, 'a clock of another machine')
})
