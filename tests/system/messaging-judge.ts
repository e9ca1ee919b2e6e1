// Judges a chaos run by what its processes wrote down, never by what the broker says of itself.
import type { Entry } from './messaging-journal.ts'

/** Something was done to the processes or the server. Without a pid it concerned everybody. */
export interface Fault {
  readonly at: number
  readonly pid: number | undefined
}

export interface Case {
  readonly entries: readonly Entry[]
  readonly faults: readonly Fault[]
  /** The group's dead letters, and the ids of those that there should be. */
  readonly letters: readonly { readonly id: string; readonly code: string }[]
  readonly expectedLetters: readonly string[]
  /** Only what was published from then on has to arrive, and how often and in which order it does is not judged: somebody deleted what knew. */
  readonly from?: number
}

/** A row of the table. */
export interface Verdict {
  readonly faults: number
  readonly confirmed: number
  readonly handled: number
  readonly duplicates: number
  readonly inFlight: number
  readonly disorders: number
  readonly letters: number
  /** From a fault to the next completion of something that was fetched after it, on a partition that it hit; the longest. */
  readonly recoveryMs: number | undefined
  readonly failures: readonly string[]
}

type Of<E extends Entry['e']> = Extract<Entry, { e: E }>

export function judge({ entries: all, faults, letters, expectedLetters, from }: Case): Verdict {
  const entries = from === undefined ? all : all.filter(({ at }) => at >= from)
  const of = <E extends Entry['e']>(e: E): Of<E>[] => entries.filter((entry): entry is Of<E> => entry.e === e).sort((a, b) => a.at - b.at)
  const failures: string[] = []
  const published = of('published')
  const assigned = of('assigned')
  const stored = published.filter(({ status }) => status === 'stored')

  // A completion counts unless its partition had a later owner by then (fencing stops its settlement, not its handler).
  const superseded = (partition: number, epoch: number, at: number): boolean =>
    assigned.some((later) => later.at < at && later.partition === partition && later.epoch > epoch)
  const done = of('done').filter(({ partition, epoch, at }) => !superseded(partition, epoch, at))

  const times = new Map<string, Of<'done'>[]>()
  for (const one of done) {
    const before = times.get(one.id)
    if (before) before.push(one)
    else times.set(one.id, [one])
  }

  const known = new Set(all.flatMap((entry) => (entry.e === 'published' ? [entry.id] : [])))
  for (const { id } of done) if (!known.has(id)) failures.push(`${id} was handled and never published`)
  const dead = new Set(letters.map(({ id }) => id))
  for (const { id, at } of stored)
    if (!times.has(id) && !dead.has(id)) failures.push(`lost: ${id}, confirmed at ${at.toFixed(1)} ms, was never handled${startsOf(entries, id)}`)
  for (const { id, code } of letters)
    if (!expectedLetters.includes(id)) failures.push(`${id} became a dead letter (${code}) and should not have${startsOf(entries, id)}`)
  for (const id of expectedLetters) if (!dead.has(id)) failures.push(`${id} should have become a dead letter`)

  let duplicates = 0
  for (const list of times.values()) duplicates += list.length - 1
  const left = leftBehind(entries)
  const inFlight = [...left.values()].reduce((total, positions) => total + positions.size, 0)
  let disorders = 0
  if (from === undefined) {
    // Message by message, which is stricter than to compare the two sums.
    for (const list of times.values())
      for (const one of list.slice(0, -1))
        if (!left.get(epochOf(one))?.has(one.position))
          failures.push(`repeated: ${one.id} was settled where it was completed first (${list.map(where).join(', then ')})`)
    const last = new Map<string, Of<'done'>>()
    for (const first of [...times.values()].map(([one]) => one!).sort((a, b) => a.at - b.at)) {
      const before = last.get(first.key)
      if (before && before.seq > first.seq) {
        disorders++
        failures.push(
          `out of order: ${first.id} (pid ${first.pid}, ${where(first)}) was first completed after ${before.id} (pid ${before.pid}, ${where(before)})`,
        )
      } else last.set(first.key, first)
    }
  }
  for (const { at, pid } of faults) {
    if (entries.some((entry) => entry.pid === pid && entry.at > at)) continue
    for (const one of done)
      if (one.pid === pid && at - one.at > tooLongMs && left.get(epochOf(one))?.has(one.position))
        failures.push(`not flushed: ${one.id} was completed ${(at - one.at).toFixed(0)} ms before its process ${pid} was killed, and not settled`)
  }
  for (const { partition, epoch, pid, probe } of of('accepted'))
    failures.push(`partition ${partition}: a settlement of epoch ${epoch} was stored after process ${pid} had lost it (probe: ${probe})`)

  return {
    faults: faults.length,
    confirmed: stored.length,
    handled: times.size,
    duplicates,
    inFlight,
    disorders,
    letters: letters.length,
    recoveryMs: recovery(faults, assigned, done, stored),
    failures,
  }
}

const where = ({ partition, epoch, position }: Of<'done'>): string => `${partition}:${position} in epoch ${epoch}`
const epochOf = ({ partition, epoch }: { partition: number; epoch: number }): string => `${partition} ${epoch}`
/** Twenty times what progress may wait for; for processes that were killed while the server was well. */
const tooLongMs = 4_000

const startsOf = (entries: readonly Entry[], id: string): string => {
  const starts = entries.filter((entry): entry is Of<'start'> => entry.e === 'start' && entry.id === id)
  return starts.length === 0
    ? ', never even started'
    : `; started as ${starts.map(({ partition, position, epoch }) => `${partition}:${position}/${epoch}`).join(', ')}`
}

/** The positions that each epoch of each partition had started and had no confirmed settlement of when it ended: in flight, and finished since the last flush. */
function leftBehind(entries: readonly Entry[]): Map<string, Set<number>> {
  const epochs = new Map<string, Set<number>>()
  // In the order of each process's journal, so a settlement never comes before what it covers.
  for (const entry of entries) {
    if (entry.e !== 'start' && entry.e !== 'settled') continue
    const positions = epochs.get(epochOf(entry)) ?? new Set()
    epochs.set(epochOf(entry), positions)
    if (entry.e === 'start') positions.add(entry.position)
    else {
      for (const position of entry.above) positions.delete(position)
      if (entry.watermark !== undefined) for (const position of positions) if (position <= entry.watermark) positions.delete(position)
    }
  }
  return epochs
}

function recovery(
  faults: readonly Fault[],
  assigned: readonly Of<'assigned'>[],
  done: readonly Of<'done'>[],
  stored: readonly Of<'published'>[],
): number | undefined {
  const waits: number[] = []
  for (const { at, pid } of faults) {
    const fresh = done.filter((one) => one.at > at && one.fetchedAt > at)
    if (pid !== undefined)
      for (const hit of ownedBy(pid, at, assigned)) {
        const next = fresh.find(({ partition }) => partition === hit)
        if (next) waits.push(next.at - at)
      }
    else {
      // A run that only publishes has recovered when it is confirmed something again.
      const next = fresh[0] ?? stored.find(({ sentAt }) => sentAt > at)
      if (next) waits.push(next.at - at)
    }
  }
  return waits.length === 0 ? undefined : Math.max(...waits)
}

/** The partitions that a process held at a time. */
export function ownedBy(pid: number, at: number, assigned: readonly Of<'assigned'>[]): number[] {
  const owners = new Map<number, number>()
  for (const one of assigned) if (one.at <= at) owners.set(one.partition, one.pid)
  return [...owners].filter(([, owner]) => owner === pid).map(([partition]) => partition)
}
