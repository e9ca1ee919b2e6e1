import { type Deferred, deferred } from '#internal/abort'
import type { Clock } from '#internal/clock'
import type { GroupView, LeaseStore } from '../leases.ts'
import { fromBitmap } from './bitmap.ts'
import type { Connection } from './connection.ts'
import type { Statements } from './statements.ts'

/** A lease as its new owner finds it. */
export interface Claim {
  readonly epoch: number
  /** The first offset not settled. */
  readonly watermark: number
  /** Offsets below were in the hands of an owner that did not let go. */
  readonly suspectBelow: number
  /** The offset that the next message gets. */
  readonly next: number
  /** What is settled beyond the watermark. */
  readonly above: readonly number[]
}

interface ClaimRow {
  epoch: number
  watermark: number
  suspect_below: number
  next: number
  above: string | null
  above_from: number | null
}

/** Gathers what all members of this process have to say, so that a hundred idle subscriptions cost a statement now and then. */
export interface Beats {
  /** Undefined: there is no such group any more. */
  beat(group: number, member: string, held: readonly [pid: number, epoch: number][], ttlMs: number, now: boolean): Promise<BeatView | undefined>
  /** Sends what was gathered so far. */
  flush(): Promise<void>
}

export interface BeatView {
  readonly members: readonly string[]
  readonly leases: readonly [pid: number, epoch: number, owner: string | null][]
}

interface Pending extends Deferred<BeatView | undefined> {
  readonly g: number
  readonly m: string
  readonly ttl: number
  readonly held: readonly { pid: number; epoch: number }[]
}

export function createBeats(connection: Connection, sql: Statements, clock: Clock, gatherMs: number): Beats {
  let pending: Pending[] = []
  let gathering = false

  const flush = async (): Promise<void> => {
    const batch = pending
    pending = []
    if (batch.length === 0) return
    try {
      const rows = await connection.run<{ g: number; m: string; members: string | null; leases: string | null }>(sql.beat, [
        JSON.stringify(batch.map(({ g, m, ttl, held }) => ({ g, m, ttl, held }))),
      ])
      const byName = new Map(rows.map((row) => [`${row.g} ${row.m}`, row]))
      for (const { g, m, resolve } of batch) {
        const row = byName.get(`${g} ${m}`)
        resolve(row && { members: JSON.parse(row.members ?? '[]') as string[], leases: JSON.parse(row.leases ?? '[]') as [number, number, string | null][] })
      }
    } catch (error) {
      for (const { reject } of batch) reject(error)
    }
  }

  const gather = async (): Promise<void> => {
    gathering = true
    await clock.sleep(gatherMs, { background: true })
    gathering = false
    await flush()
  }

  return {
    flush,
    beat: (group, member, held, ttlMs, now) => {
      const entry = { ...deferred<BeatView | undefined>(), g: group, m: member, ttl: ttlMs, held: held.map(([pid, epoch]) => ({ pid, epoch })) }
      pending.push(entry)
      if (now) void flush()
      else if (!gathering) void gather()
      return entry.promise
    },
  }
}

export interface GroupLeaseOptions {
  connection: Connection
  sql: Statements
  beats: Beats
  group: number
  member: string
  /** The pid of each partition. */
  pids: readonly number[]
  onClaim(partition: number, claim: Claim): void
  onGone(): void
  /** Up to where what this member holds is suspect. */
  suspectBelow(partition: number): number
}

/** Members and leases of one group, as `leases.ts` wants them; the server's clock judges. */
export function groupLeases({ connection, sql, beats, group, member, pids, onClaim, onGone, suspectBelow: suspectBelowOf }: GroupLeaseOptions): LeaseStore {
  const partitions = new Map(pids.map((pid, partition) => [pid, partition]))
  let first = true

  return {
    beat: async (held, ttlMs): Promise<GroupView> => {
      const now = first
      first = false
      const pairs = [...held].map(([partition, epoch]): [number, number] => [pids[partition]!, epoch])
      const view = await beats.beat(group, member, pairs, ttlMs, now)
      if (!view) {
        onGone()
        return { members: [], leases: [] }
      }
      // The member that beats sees the members as they were before: itself it adds.
      const members = [...new Set([...view.members, member])].sort()
      return { members, leases: view.leases.map(([pid, epoch, owner]) => ({ partition: partitions.get(pid)!, owner: owner ?? undefined, epoch })) }
    },
    claim: async (partition, ttlMs) => {
      const rows = await connection.run<ClaimRow>(sql.claim, [String(group), member, String(pids[partition]!), String(ttlMs)])
      const row = rows[0]
      if (!row) return undefined
      const { epoch, watermark, suspect_below: suspectBelow, next, above, above_from: aboveFrom } = row
      onClaim(partition, { epoch, watermark, suspectBelow, next, above: fromBitmap(above, aboveFrom) })
      return row.epoch
    },
    release: async (partition, epoch) => {
      await connection.run(sql.release, [String(group), member, String(pids[partition]!), String(epoch), String(suspectBelowOf(partition))])
    },
    leave: async () => {
      await connection.run(sql.leave, [String(group), member])
    },
  }
}
