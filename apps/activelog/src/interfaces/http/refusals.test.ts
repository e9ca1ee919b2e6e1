import assert from 'node:assert/strict'
import { test } from 'node:test'
import { virtualClock } from '@core-backend/events/testing'
import { tellRefusals } from './refusals.ts'

const locked = Object.assign(new Error('canceling statement due to lock timeout'), { code: '55P03' })
const busy = new Error('timeout exceeded when trying to connect')

test('requests that are refused for a lock, or for want of a connection, are a line each, then one now and then with how many they were', async () => {
  const clock = virtualClock()
  const began = clock.now()
  const lines: unknown[][] = []
  const note =
    (level: string) =>
    (fields: object, text: string): void =>
      void lines.push([level, (clock.now() - began) / 1_000, text, (fields as { requests?: number }).requests])
  const logger = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') }
  const told = (): unknown[][] => lines.splice(0).filter(([level]) => level !== 'debug')
  const tell = tellRefusals(logger, { everyMs: 10_000, clock })
  const [lock, crowd] = ['Requests are refused: somebody holds a lock', 'Requests are refused: all connections are in use']
  for (let second = 0; second < 25; second++) {
    for (const err of [locked, locked, busy]) assert.equal(tell({ err }), true)
    await clock.advance(1_000)
  }
  assert.equal(lines.length, 75 + 4, 'each is a line for who wants to see them all')
  assert.deepEqual(told(), [
    ['warn', 0, lock, 1],
    ['warn', 0, crowd, 1],
    ['warn', 10, lock, 19],
    ['warn', 10, crowd, 9],
    ['warn', 20, lock, 20],
    ['warn', 20, crowd, 10],
  ])
  await clock.advance(86_400_000)
  assert.deepEqual(
    told(),
    [
      ['warn', 30, lock, 10],
      ['warn', 30, crowd, 5],
    ],
    'the rest is told in time, not with the next crowd',
  )
  tell({ err: locked })
  assert.deepEqual(told(), [['warn', 86_425, lock, 1]])
  for (const err of [new Error('broken'), undefined]) assert.equal(tell({ err }), false)
  assert.deepEqual(lines, [], 'others are not its own')
})
