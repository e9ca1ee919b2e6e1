/** Offsets as the hex text of a bytea, a bit each, lowest bits first as get_bit() counts: 125 bytes for a window of a thousand, however torn. */
export function toBitmap(offsets: Iterable<number>): { above: string | null; above_from: number | null } {
  const all = [...offsets]
  if (all.length === 0) return { above: null, above_from: null }
  let low = Infinity
  let high = 0
  for (const offset of all) {
    low = Math.min(low, offset)
    high = Math.max(high, offset)
  }
  const bits = Buffer.alloc(((high - low) >> 3) + 1)
  for (const offset of all) bits[(offset - low) >> 3]! |= 1 << ((offset - low) & 7)
  return { above: `\\x${bits.toString('hex')}`, above_from: low }
}

export function fromBitmap(hex: string | null, from: number | null): number[] {
  const offsets: number[] = []
  Buffer.from(hex ?? '', 'hex').forEach((byte, i) => {
    for (let bit = 0; bit < 8; bit++) if ((byte >> bit) & 1) offsets.push(from! + i * 8 + bit)
  })
  return offsets
}
