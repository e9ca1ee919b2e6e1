import assert from 'node:assert/strict'
import { test } from 'node:test'
import { uuidv7 } from './uuid.ts'

test('a UUID of version 7 begins with its time, and every other digit takes every value', () => {
  const now = 0x0123_4567_89ab
  const ids = Array.from({ length: 10_000 }, () => uuidv7(now + 0.5))
  for (const id of ids) assert.match(id, /^01234567-89ab-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  assert.equal(new Set(ids).size, ids.length)
  const values = Array.from({ length: 36 }, (_, i) => new Set(ids.map((id) => id[i])).size)
  assert.deepEqual(values.slice(14), [1, 16, 16, 16, 1, 4, 16, 16, 16, 1, ...Array.from({ length: 12 }, () => 16)])
  assert.ok(uuidv7(now - 1) < ids[0]! && ids[0]! < uuidv7(now + 1))
  assert.match(uuidv7(1), /^00000000-0001-7/)
  assert.ok(Math.abs(Number.parseInt(uuidv7().replace('-', '').slice(0, 12), 16) - Date.now()) < 60_000)
})
