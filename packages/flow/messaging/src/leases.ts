import type { Clock } from '#internal/clock'
import type { Ownership } from './driver.ts'

/**
 * Where a group's members and leases stand, for brokers that balance nothing themselves. Every call is one atomic step, judged by the store's own clock.
 * A lease is (partition, owner, epoch); whoever takes it over gets a larger epoch.
 */
export interface LeaseStore {
  /** Says that this member lives for `ttlMs` more, renews what it holds (where owner and epoch are still its own), and gives the group as it then stands. */
  beat(held: ReadonlyMap<number, number>, ttlMs: number): Promise<GroupView>
  /** Takes a lease that is free, expired, or under the name of this very member: its new epoch, or nothing when somebody was faster. */
  claim(partition: number, ttlMs: number): Promise<number | undefined>
  /** Frees a lease cleanly. A stale epoch changes nothing. */
  release(partition: number, epoch: number): Promise<void>
  /** This member is gone. */
  leave(): Promise<void>
}

/** A group at one moment. */
export interface GroupView {
  /** Live members, in the same order for everybody. */
  readonly members: readonly string[]
  readonly leases: readonly Lease[]
}

/** Who has a partition. */
export interface Lease {
  readonly partition: number
  /** Absent when free or expired. */
  readonly owner: string | undefined
  readonly epoch: number
}

/** One member's part in a group. */
export interface Leases {
  /** Takes part from now on; resolves after the first round, when what was free is claimed, or rejects with why it failed. */
  start(): Promise<void>
  /** Called by a driver's `release`: frees the lease. */
  release(partition: number, epoch: number): Promise<void>
  /** The epoch under which this member holds a partition, by its own clock. */
  held(partition: number): number | undefined
  /** Stops renewing and leaves; leases not released run out. */
  close(): Promise<void>
}

/** What leases need to know. */
export interface LeaseOptions {
  readonly clock: Clock
  readonly leaseMs: number
  /** A partition goes on. `late`: so late that `held` had begun to deny it, but in time for the store. */
  readonly onRenewed: (partition: number, late: boolean) => void
}

interface HeldLease {
  epoch: number
  /** On the local monotonic clock, counted from before the request that renewed it was sent. */
  validUntil: number
  revoking: boolean
}

/**
 * Claims, renews and gives back leases so that each member holds its fair share, and tells the owner. A lease whose renewal is not confirmed in time is lost
 * here before it is free there: the local clock starts when the request is sent, the store's when it arrives (Gray and Cheriton, Leases, 1989).
 */
export function createLeases(store: LeaseStore, member: string, owner: Ownership, { clock, leaseMs, onRenewed }: LeaseOptions): Leases {
  const held = new Map<number, HeldLease>()
  /** Under which epoch this member had each partition last. A renewal that reached the store after it had given the partition up leaves a lease under that one. */
  const had = new Map<number, number>()
  const stop = new AbortController()
  let loop: Promise<void> | undefined
  let closed: Promise<void> | undefined
  let chain: Promise<void> = Promise.resolve()
  let first = true

  const lose = (partition: number, reason: string): void => {
    if (held.delete(partition)) owner.lost(partition, reason)
  }

  const expire = (): void => {
    for (const [partition, lease] of held) if (clock.monotonic() >= lease.validUntil) lose(partition, 'the lease ran out before it could be renewed')
  }

  const round = async (): Promise<void> => {
    const sentAt = clock.monotonic()
    const view = await store.beat(new Map([...held].map(([partition, { epoch }]) => [partition, epoch])), leaseMs)
    for (const [partition, lease] of held) {
      const now = view.leases.find((l) => l.partition === partition)
      if (now?.owner === member && now.epoch === lease.epoch) {
        const late = clock.monotonic() >= lease.validUntil
        lease.validUntil = sentAt + leaseMs
        onRenewed(partition, late)
      } else lose(partition, 'another member took the partition over')
    }
    if (stop.signal.aborted) return
    const share = fairShare(view, member)
    let surplus = [...held.values()].filter((lease) => !lease.revoking).length - share
    for (const [partition, lease] of [...held].reverse()) {
      if (surplus-- <= 0) break
      if (lease.revoking) continue
      lease.revoking = true
      owner.revoking(partition, leaseMs)
      revokeLater(partition, lease)
    }
    for (const { partition, owner: holder, epoch: current } of view.leases) {
      if (held.size >= share || stop.signal.aborted) break
      // Its own under an epoch that it never had is of another life of it: an earlier one, to which only a beginning member falls heir, or a later one.
      const own = holder === member && (first || had.get(partition) === current)
      if (held.has(partition) || (holder !== undefined && !own)) continue
      const claimedAt = clock.monotonic()
      const epoch = await store.claim(partition, leaseMs)
      if (epoch === undefined) continue
      had.set(partition, epoch)
      held.set(partition, { epoch, validUntil: claimedAt + leaseMs, revoking: false })
      owner.assigned(partition, epoch)
    }
    first = false
  }

  /** A handler that does not end must not keep a partition from another member for ever. */
  const revokeLater = (partition: number, lease: HeldLease): void => {
    void clock.sleep(leaseMs, { signal: stop.signal }).then(
      () => {
        if (held.get(partition) === lease) lose(partition, 'it was not handed over in time')
      },
      () => undefined,
    )
  }

  /** One round at a time: a beat that overtakes another would renew with stale epochs. */
  const inTurn = (): Promise<void> => {
    chain = chain.then(round).then(
      () => owner.renewed(undefined),
      (error: unknown) => owner.renewed(error),
    )
    return chain
  }

  const run = async (): Promise<void> => {
    while (!stop.signal.aborted) {
      await clock.sleep(leaseMs / 4, { signal: stop.signal }).catch(() => undefined)
      if (stop.signal.aborted) return
      expire()
      await Promise.race([inTurn(), clock.sleep(leaseMs / 2, { signal: stop.signal }).catch(() => undefined)])
      expire()
    }
  }

  return {
    start: async () => {
      const beginning = round()
      chain = beginning.catch(() => undefined)
      await beginning
      loop ??= run()
    },
    held: (partition) => {
      const lease = held.get(partition)
      return lease && clock.monotonic() < lease.validUntil ? lease.epoch : undefined
    },
    release: async (partition, epoch) => {
      if (held.get(partition)?.epoch === epoch) held.delete(partition)
      await store.release(partition, epoch)
    },
    close: () =>
      (closed ??= (async () => {
        stop.abort(new Error('closed'))
        await loop
        await chain
        await store.leave()
      })()),
  }
}

/** Partitions divided by members. The rest stays with who has more already, else goes to the first by name: the same answer at everybody, and nobody who joins moves more than need be. */
function fairShare({ members, leases }: GroupView, member: string): number {
  if (!members.includes(member)) return 0
  const share = Math.floor(leases.length / members.length)
  const rest = leases.length % members.length
  const has = (name: string): boolean => leases.filter((lease) => lease.owner === name).length > share
  const ahead = members.filter((other) => other !== member && (has(other) === has(member) ? other < member : has(other))).length
  return share + (ahead < rest ? 1 : 0)
}
