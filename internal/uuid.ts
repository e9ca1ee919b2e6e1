import { randomFillSync } from 'node:crypto'

const random = new Uint8Array(4096)
let used = random.length
const digits = Buffer.from('0123456789abcdef')
const digit = (value: number): number => digits[value & 0x0f]!

/** The last one: its time stands there already for the next of the same millisecond. */
const text = Buffer.from('00000000-0000-7000-8000-000000000000')
let lastMs = 0

/** A UUID of version 7 (RFC 9562): 48 bits of Unix ms, then 74 random bits. Sorts by creation time to the millisecond, not within it. */
export function uuidv7(now: number = Date.now()): string {
  const ms = Math.floor(now)
  if (ms !== lastMs) {
    const time = ms.toString(16).padStart(12, '0')
    text.write(`${time.slice(0, 8)}-${time.slice(8)}`, 'latin1')
    lastMs = ms
  }
  if (used + 10 > random.length) {
    randomFillSync(random)
    used = 0
  }
  const first = random[used++]!
  text[15] = digit(first >> 4)
  text[22] = digit(first)
  text[19] = digit(0x08 | (random[used++]! & 0x03))
  for (const at of places) {
    const byte = random[used++]!
    text[at] = digit(byte >> 4)
    text[at + 1] = digit(byte)
  }
  return text.toString('latin1')
}

/** Where two random digits stand. */
const places = [16, 20, 24, 26, 28, 30, 32, 34]
