import assert from 'node:assert/strict'
import { test } from 'node:test'
import { murmur2, partitionOf } from './partition.ts'

test("murmur2 gives what Kafka's own UtilsTest expects", () => {
  const expected: Record<string, number> = {
    '21': -973932308,
    foobar: -790332482,
    'a-little-bit-long-string': -985981536,
    'a-little-bit-longer-string': -1486304829,
    lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8: -58897971,
    abc: 479470107,
  }
  for (const [text, hash] of Object.entries(expected)) assert.equal(murmur2(new TextEncoder().encode(text)), hash, text)
})

test('a partition is in range for every key and count, and the same for the same key', () => {
  for (const partitions of [1, 2, 3, 4, 7, 64, 1_024])
    for (let i = 0; i < 200; i++) {
      const key = `${'ü😀'.repeat(i % 5)}${i}`
      const partition = partitionOf(key, partitions)
      assert.ok(Number.isInteger(partition) && partition >= 0 && partition < partitions)
      assert.equal(partitionOf(key, partitions), partition)
    }
})

test('a negative hash is masked, not negated, as in the Java client', () => {
  assert.equal(partitionOf('21', 10), (-973932308 & 0x7fffffff) % 10)
})

test('keys spread over the partitions', () => {
  const counts = [0, 0, 0, 0]
  for (let i = 0; i < 4_000; i++) counts[partitionOf(`key-${i}`, 4)]!++
  for (const n of counts) assert.ok(n > 800 && n < 1_200, String(counts))
})
