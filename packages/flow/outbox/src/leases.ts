import type { Clock } from '#internal/clock'
import type { SqlClient } from '#internal/sql'
import { answered } from './deadline.ts'
import type { Lease, LeaseStore, LeaseView } from './store.ts'

export interface Leases {
  /** Extends what is held and sees how things stand. To be called every third of `leaseMs`, whatever else is under way. */
  renew(): Promise<void>
  /** Whether `renew` has seen anything since the last `balance`. */
  seen(): boolean
  /** Takes what is free and gives up what is beyond the fair share: the `busy`, of which rows are under way, no sooner than these are settled. Returns the partitions gained. */
  balance(busy?: ReadonlySet<number>): Promise<readonly number[]>
  /** What is certainly still ours, and to stay so. */
  held(): readonly Lease[]
  /** Gives everything back. */
  leave(): Promise<void>
}

/**
 * Leases last until `leaseMs` after the database executed the renewal; we count from before it was sent, by the monotonic clock, so that
 * we stop before another may begin, whatever the wall clocks say.
 */
export function createLeases(store: LeaseStore, db: SqlClient, relay: string, leaseMs: number, clock: Clock): Leases {
  const leases = new Map<number, Lease & { until: number }>()
  /** Beyond our share, with rows under way: nothing new is begun there. */
  let leaving: ReadonlySet<number> = new Set()
  let view: (LeaseView & { until: number }) | undefined
  let last: Promise<unknown> = Promise.resolve()

  /** One at a time: a renewal that comes back after a claim must not take the claim for lost. */
  function inTurn<T>(step: () => Promise<T>): Promise<T> {
    const result = last.then(step)
    last = result.catch(() => undefined)
    return result
  }

  return {
    held: () =>
      [...leases.values()].filter((lease) => lease.until > clock.monotonic() && !leaving.has(lease.partition)).toSorted((a, b) => a.partition - b.partition),
    seen: () => view !== undefined,

    renew: () =>
      inTurn(async () => {
        const until = clock.monotonic() + leaseMs
        const seen = await answered(store.renew(db, relay, leaseMs), clock, leaseMs)
        const mine = new Map(seen.mine.map((lease) => [lease.partition, lease.epoch]))
        for (const lease of leases.values()) {
          if (mine.get(lease.partition) === lease.epoch) lease.until = until
          else leases.delete(lease.partition)
        }
        view = { ...seen, until }
      }),

    balance: (busy = new Set()) =>
      inTurn(async () => {
        if (!view) return []
        const { mine, free, partitions, relays, until: viewUntil } = view
        view = undefined
        // Ours without our knowing, when the answer to a claim was lost: nobody else would ever take it.
        const gained = mine.filter((lease) => !leases.has(lease.partition))
        for (const lease of gained) leases.set(lease.partition, { ...lease, until: viewUntil })
        const share = Math.ceil(partitions / relays)
        const isBusy = ({ partition }: Lease): boolean => busy.has(partition)
        const surplus = [...leases.values()].toSorted((a, b) => Number(isBusy(b)) - Number(isBusy(a))).slice(share)
        const idle = surplus.filter((lease) => !isBusy(lease))
        leaving = new Set(surplus.filter(isBusy).map((lease) => lease.partition))
        for (const { partition } of idle) leases.delete(partition)
        if (idle.length > 0) await answered(store.release(db, relay, idle, false), clock, leaseMs)
        const wanted = free.slice(0, Math.max(0, share - leases.size))
        if (wanted.length > 0) {
          const until = clock.monotonic() + leaseMs
          const claimed = await answered(store.claim(db, relay, leaseMs, wanted), clock, leaseMs)
          for (const lease of claimed) leases.set(lease.partition, { ...lease, until })
          gained.push(...claimed)
        }
        return gained.map((lease) => lease.partition)
      }),

    leave: () =>
      inTurn(async () => {
        leases.clear()
        view = undefined
        // By their epochs, also of those that are ours without our knowing: a release that comes late gives up nothing that was taken since.
        const { mine } = await answered(store.renew(db, relay, leaseMs), clock, leaseMs)
        await answered(store.release(db, relay, mine, true), clock, leaseMs)
      }),
  }
}
