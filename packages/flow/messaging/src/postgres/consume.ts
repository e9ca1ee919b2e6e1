import type { Clock } from '#internal/clock'
import type { Consumption, Ownership, Progress } from '../driver.ts'
import { MessagingError, missedMessages, topicNotFound } from '../errors.ts'
import { createLeases } from '../leases.ts'
import { toBitmap } from './bitmap.ts'
import type { TopicEntry } from './catalog.ts'
import type { Connection } from './connection.ts'
import type { Heads } from './heads.ts'
import { type Beats, groupLeases } from './lease-store.ts'
import { type Asked, createFetch, type Reading, startReading } from './fetch.ts'
import type { MessageRow } from './record.ts'
import type { Statements } from './statements.ts'

export interface ConsumeDeps {
  connection: Connection
  sql: Statements
  heads: Heads
  beats: Beats
  clock: Clock
  leaseMs: number
  /** Something was read or settled: there may be something to tidy up. */
  touched(): void
}

const list = (asked: readonly Asked[], of: (one: Asked) => number): string => `{${asked.map(of).join(',')}}`
const pidOf = ({ reading }: Asked): number => reading.pid

/** Everything from now on, for this listener alone; nothing is written. */
export async function listenOnly(deps: ConsumeDeps, topic: TopicEntry, owner: Ownership): Promise<Consumption> {
  const { connection, sql, heads } = deps
  const unwatch = heads.watch(topic.pids)
  const rows = await connection.run<{ id: number; next: number }>(sql.heads, [`{${topic.pids.join(',')}}`]).catch((error: unknown) => {
    unwatch()
    throw error
  })
  const next = new Map(rows.map((row) => [row.id, row.next]))
  const readings = new Map<number, Reading>()
  topic.pids.forEach((pid, partition) => {
    const from = next.get(pid) ?? 0
    heads.learn(pid, from)
    readings.set(partition, startReading({ pid, partition, epoch: 1, suspectBelow: 0, from }))
    owner.assigned(partition, 1)
  })
  const missed: MessagingError[] = []
  return {
    fetch: createFetch({
      ...deps,
      readings,
      check: () => {
        const error = missed.shift()
        if (error) throw error
      },
      held: () => true,
      rows: async (asked) => {
        const got = await connection.run<MessageRow>(sql.read, [list(asked, pidOf), list(asked, (a) => a.reading.from), list(asked, (a) => a.n)])
        // Offsets have no gaps of their own: what is not there was removed.
        const expected = new Map(asked.map(({ reading }) => [reading.pid, reading.from]))
        for (const { pid, offset } of got) {
          const gap = Number(offset) - expected.get(pid)!
          if (gap > 0) missed.push(missedMessages(topic.name, topic.pids.indexOf(pid), gap))
          expected.set(pid, Number(offset) + 1)
        }
        return got
      },
    }),
    begin: async () => 1,
    settle: async (progress) => progress.map(() => 'settled'),
    extend: async () => undefined,
    release: async (partition) => void readings.delete(partition),
    close: async () => unwatch(),
  }
}

/** One member of a group. */
export async function joinGroup(
  deps: ConsumeDeps,
  topic: TopicEntry,
  group: { id: number; name: string },
  member: string,
  owner: Ownership,
): Promise<Consumption> {
  const { connection, sql, heads, beats, clock, leaseMs, touched } = deps
  const readings = new Map<number, Reading>()
  const unwatch = heads.watch(topic.pids)
  const who = [String(group.id), member]
  const over = new AbortController()
  /** Numbers them: a settlement that was given up, and reaches the server after a later one, must take nothing back. */
  let settlements = 0

  const store = groupLeases({
    connection,
    sql,
    beats,
    group: group.id,
    member,
    pids: topic.pids,
    onClaim: (partition, { epoch, watermark, suspectBelow, next, above }) => {
      const pid = topic.pids[partition]!
      readings.set(partition, startReading({ pid, partition, epoch, suspectBelow, from: watermark }, above))
      heads.learn(pid, next)
      // Who waits for this partition waits as its owner of before.
      heads.stir(pid)
    },
    onGone: () => over.abort(),
    suspectBelow: (partition) => readings.get(partition)?.suspectBelow ?? 0,
  })
  const leases = createLeases(store, member, owner, {
    clock,
    leaseMs,
    onRenewed: (partition, late) => {
      const reading = readings.get(partition)
      if (!reading || !(late || reading.blank)) return
      reading.blank = false
      reading.seen = reading.from
      heads.stir(topic.pids[partition]!)
    },
  })
  try {
    await leases.start()
  } catch (error) {
    unwatch()
    await leases.close().catch(() => undefined)
    throw error
  }

  return {
    fetch: createFetch({
      ...deps,
      readings,
      check: () => {
        if (over.signal.aborted) throw topicNotFound(`${topic.name}, or its group ${group.name}, any more`)
      },
      over: over.signal,
      held: ({ partition, epoch }) => leases.held(partition) === epoch,
      rows: (asked) =>
        connection.run<MessageRow>(sql.fetch, [
          ...who,
          list(asked, pidOf),
          list(asked, (a) => a.reading.epoch),
          list(asked, (a) => a.reading.from),
          list(asked, (a) => a.n),
        ]),
    }),

    begin: async ({ partition, epoch, position }) => {
      const rows = await connection.run<{ n: number }>(sql.begin, [...who, String(topic.pids[partition]), String(epoch), position])
      if (!rows[0]) throw new MessagingError('ERR_MESSAGING_OWNERSHIP_LOST', `Partition ${partition} of ${topic.name} was lost`, { retryable: true })
      return rows[0].n
    },

    settle: async (progress) => {
      const number = ++settlements
      const rows = progress.map((one) => {
        const reading = readings.get(one.partition)
        return progressRow(one, topic.pids[one.partition]!, number, reading?.epoch === one.epoch ? reading.inherited : undefined)
      })
      const [row] = await connection.run<{ answer: string | null }>(sql.settle, [...who, JSON.stringify(rows)])
      touched()
      const settled = new Set(row!.answer?.slice(1, -1).split(',').map(Number))
      return progress.map(({ partition }) => (settled.has(topic.pids[partition]!) ? 'settled' : 'stale'))
    },

    extend: async () => undefined,
    release: async (partition, epoch) => {
      const reading = readings.get(partition)
      await leases.release(partition, epoch)
      if (reading?.epoch === epoch && readings.get(partition) === reading) readings.delete(partition)
    },
    close: async () => {
      unwatch()
      const closed = leases.close()
      // A renewal that others were to be gathered for is not waited for.
      void beats.flush()
      await closed
    },
  }
}

interface ProgressRow {
  pid: number
  epoch: number
  number: number
  watermark: number | null
  above: string | null
  above_from: number | null
}

/** The engine tells what this owner did; what earlier ones had done beyond the watermark counts on, and progress passes it. */
function progressRow({ epoch, watermark, above }: Progress, pid: number, number: number, inherited: Set<number> | undefined): ProgressRow {
  const settled = new Set(above.map((delivery) => Number(delivery.position)))
  let next = watermark ? Number(watermark.position) + 1 : null
  // Left as it is: if this settlement fails, the next one needs it again.
  for (const offset of inherited ?? []) if (next === null || offset >= next) settled.add(offset)
  if (next !== null) while (settled.delete(next)) next++
  return { pid, epoch, number, watermark: next, ...toBitmap(settled) }
}
