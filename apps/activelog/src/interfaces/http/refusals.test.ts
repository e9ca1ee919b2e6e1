import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tellRefusals } from './refusals.ts'

const locked = Object.assign(new Error('canceling statement due to lock timeout'), { code: '55P03' })
const busy = new Error('timeout exceeded when trying to connect')

test('requests that are refused for a lock, or for want of a connection, are a line each, then one now and then with how many they were', () => {
  let now = 0
  const lines: unknown[] = []
  const note =
    (level: string) =>
    (fields: object, text: string): void =>
      void lines.push([level, text, (fields as { requests?: number }).requests])
  const logger = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') }
  const tell = tellRefusals(logger, { everyMs: 10_000, now: () => now })
  for (; now < 25_000; now += 1_000) for (const err of [locked, locked, busy]) assert.equal(tell({ err }), true)
  const [lock, crowd] = ['Requests are refused: somebody holds a lock', 'Requests are refused: all connections are in use']
  assert.deepEqual(
    lines.filter((line) => (line as string[])[0] !== 'debug'),
    [
      ['warn', lock, 1],
      ['warn', crowd, 1],
      ['warn', lock, 20],
      ['warn', crowd, 10],
      ['warn', lock, 20],
      ['warn', crowd, 10],
    ],
  )
  assert.equal(lines.length, 75)
  lines.length = 0
  for (const err of [new Error('broken'), undefined]) assert.equal(tell({ err }), false)
  assert.deepEqual(lines, [], 'others are not its own')
})
