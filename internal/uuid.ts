import { randomFillSync } from 'node:crypto'

const pool = new Uint8Array(4096)
let used = pool.length
const hex = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** A UUID of version 7 (RFC 9562): 48 bits of Unix ms, then 74 random bits. Sorts by creation time to the millisecond, not within it. */
export function uuidv7(now: number = Date.now()): string {
  if (used + 10 > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  const r = pool.subarray(used, (used += 10))
  const time = Math.floor(now).toString(16).padStart(12, '0')
  const at = (i: number): string => hex[r[i]!]!
  const version = hex[0x70 | (r[0]! & 0x0f)]!
  const variant = hex[0x80 | (r[2]! & 0x3f)]!
  return `${time.slice(0, 8)}-${time.slice(8)}-${version}${at(1)}-${variant}${at(3)}-${at(4)}${at(5)}${at(6)}${at(7)}${at(8)}${at(9)}`
}
