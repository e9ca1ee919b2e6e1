import type { Clock } from '#internal/clock'
import type { Connection } from './connection.ts'
import type { Statements } from './statements.ts'

export interface MaintenanceOptions {
  connection: Connection
  sql: Statements
  clock: Clock
  segmentBytes: number
  segmentAgeMs: number
  onRemovedUnread: ((topic: string, count: number) => void) | undefined
}

/** Runs the turns of `rotation.ts`: soon after something was written, read or settled, and once a minute while somebody reads. */
export interface Maintenance {
  touched(): void
  idle(): void
  /** One turn, now unless another process had one just before: true when there is more to do. */
  turn(): Promise<boolean>
  /** Why the last turn failed, if it did. */
  readonly failure: unknown
  close(): void
}

const everyMs = 5_000
const idleMs = 60_000
/** How long a segment that nobody needs stays for listeners without a group. */
const graceMs = 60_000

export function createMaintenance({ connection, sql, clock, segmentBytes, segmentAgeMs, onRemovedUnread }: MaintenanceOptions): Maintenance {
  const stop = new AbortController()
  let planned = false
  let failure: unknown
  let last = clock.monotonic()

  const turn = async (): Promise<boolean> => {
    last = clock.monotonic()
    const values = [everyMs * 0.8, segmentBytes, segmentAgeMs, graceMs].map(String)
    const [row] = await connection.run<{ done: string | null }>(sql.maintain, values)
    failure = undefined
    if (!row?.done) return false
    const { again, removed } = JSON.parse(row.done) as { again: boolean; removed: { topic: string; count: number }[] }
    for (const { topic, count } of removed) if (count > 0) onRemovedUnread?.(topic, count)
    return again
  }

  const run = async (waitMs: number): Promise<void> => {
    planned = true
    try {
      await clock.sleep(waitMs, { signal: stop.signal, background: true })
      while (!stop.signal.aborted && (await turn()));
    } catch (error) {
      // Tried again at the next touch.
      failure = stop.signal.aborted ? undefined : error
    } finally {
      planned = false
    }
  }

  return {
    touched: () => {
      if (!planned && !stop.signal.aborted) void run(everyMs)
    },
    idle: () => {
      if (!planned && !stop.signal.aborted && clock.monotonic() - last >= idleMs) void run(0)
    },
    turn,
    get failure() {
      return failure
    },
    close: () => stop.abort(new Error('closed')),
  }
}
