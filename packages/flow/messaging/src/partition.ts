/** A key's bytes while they are hashed: most keys need no memory of their own. */
const scratch = Buffer.allocUnsafe(1024)

/** MurmurHash2 (Appleby, 2008), 32 bit, seed 0x9747b28c, as Kafka's Java client computes it. */
export function murmur2(bytes: Uint8Array, length: number = bytes.length): number {
  const m = 0x5bd1e995
  let h = 0x9747b28c ^ length
  let i = 0
  for (; i + 4 <= length; i += 4) {
    let k = bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24)
    k = Math.imul(k, m)
    k ^= k >>> 24
    h = Math.imul(h, m) ^ Math.imul(k, m)
  }
  const rest = length - i
  if (rest > 2) h ^= bytes[i + 2]! << 16
  if (rest > 1) h ^= bytes[i + 1]! << 8
  if (rest > 0) h = Math.imul(h ^ bytes[i]!, m)
  h ^= h >>> 13
  h = Math.imul(h, m)
  return h ^ (h >>> 15)
}

/** The partition of a key, in [0, partitions): the same on every driver, and the one that Kafka's Java producer picks. */
export function partitionOf(key: string, partitions: number): number {
  // UTF-8 takes at most three bytes a UTF-16 unit.
  const hash = key.length * 3 <= scratch.length ? murmur2(scratch, scratch.write(key)) : murmur2(Buffer.from(key))
  return (hash & 0x7fffffff) % partitions
}

/** The offset that a position stands for, where the broker counts a partition's messages; throws for what it cannot have given. */
export function offsetOf(position: string): number {
  if (!/^\d{1,15}$/.test(position)) throw new RangeError(`A position on this broker is a number of at most 15 digits, got ${JSON.stringify(position)}`)
  return Number(position)
}
