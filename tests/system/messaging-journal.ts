import { openSync, readdirSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'

/** What a process of a chaos run says it did. `at` is the machine's monotonic clock in ms, the same in all processes. */
export type Fact =
  | { e: 'published'; sentAt: number; id: string; key: string; seq: number; status: 'stored' | 'rejected' | 'unknown'; code?: string }
  | { e: 'assigned'; partition: number; epoch: number }
  | { e: 'lost'; partition: number; epoch: number; reason: string }
  | { e: 'start'; id: string; partition: number; epoch: number; position: number; attempt: number; slow: boolean }
  | { e: 'done'; id: string; key: string; seq: number; partition: number; epoch: number; position: number; fetchedAt: number }
  /** The signal of a handler at work aborted. */
  | { e: 'aborted'; id: string; partition: number; epoch: number; code: string }
  /** A settlement was answered: everything up to `watermark` and all of `above` is stored. */
  | { e: 'settled'; partition: number; epoch: number; watermark: number | undefined; above: readonly number[] }
  /** `probe`: sent on purpose, once ownership was lost. */
  | { e: 'refused'; partition: number; epoch: number; probe: boolean }
  | { e: 'accepted'; partition: number; epoch: number; probe: boolean }
  | { e: 'error'; code: string; text: string }
  | { e: 'closed' }

export type Entry = Fact & { readonly at: number; readonly pid: number }

export const monotonic = (): number => Number(process.hrtime.bigint()) / 1e6

/** Every line is handed to the kernel before the call returns: a process that is killed right after loses none of it. */
export function openJournal(folder: string): (fact: Fact) => void {
  const file = openSync(join(folder, `${process.pid}.jsonl`), 'a')
  return (fact) => void writeSync(file, `${JSON.stringify({ ...fact, at: monotonic(), pid: process.pid })}\n`)
}

/** Everything that all processes have written so far, process by process; asked again, it reads only what is new. */
export function readJournals(folder: string): () => readonly Entry[] {
  const entries: Entry[] = []
  const read = new Map<string, number>()
  return () => {
    for (const name of readdirSync(folder)) {
      const bytes = readFileSync(join(folder, name))
      const from = read.get(name) ?? 0
      const to = bytes.lastIndexOf(10) + 1
      if (to <= from) continue
      read.set(name, to)
      for (const line of bytes.toString('utf8', from, to).trimEnd().split('\n')) entries.push(JSON.parse(line) as Entry)
    }
    return entries
  }
}
