import assert from 'node:assert/strict'
import { test } from 'node:test'
import { virtualClock } from './harness.test.ts'
import { memoryStore, type LeaseStore } from './index.ts'
import { createLeases, type Leases } from './leases.ts'

const leaseMs = 3_000
const clock = virtualClock()

function relays(n: number, change: (store: LeaseStore, relay: number) => LeaseStore = (store) => store): Leases[] {
  const memory = memoryStore({ clock })
  return Array.from({ length: n }, (_, i) => createLeases(change(memory.outbox.leases, i), memory, `relay ${i}`, leaseMs, clock))
}

const round = async (all: readonly Leases[]): Promise<number[]> => {
  for (const leases of all) {
    await leases.renew()
    await leases.balance()
  }
  return all.map((leases) => leases.held().length)
}

test('relays share the partitions evenly as they come and go, none held twice', async () => {
  const all = relays(4)
  assert.deepEqual(await round(all.slice(0, 1)), [16])
  await round(all.slice(0, 2))
  assert.deepEqual(await round(all.slice(0, 2)), [8, 8])
  await round(all)
  await round(all)
  assert.deepEqual(await round(all), [4, 4, 4, 4])
  assert.equal(new Set(all.flatMap((leases) => leases.held().map((lease) => lease.partition))).size, 16)
  await all[3]!.leave()
  await round(all.slice(0, 3))
  assert.deepEqual(
    (await round(all.slice(0, 3))).toSorted((a, b) => a - b),
    [4, 6, 6],
  )
})

test('a relay that falls silent holds nothing when its time is over, and the others take over', async () => {
  const [silent, other] = relays(2) as [Leases, Leases]
  await round([silent])
  await clock.advance(leaseMs - 1)
  assert.equal(silent.held().length, 16)
  await clock.advance(1)
  assert.equal(silent.held().length, 0)
  assert.deepEqual(await round([other]), [16])
  await silent.renew()
  assert.equal(silent.held().length, 0, 'its epochs are stale')
})

test('the time of a lease is counted from before the request, so that a slow answer shortens it', async () => {
  const [slow] = relays(1, (store) => ({
    ...store,
    claim: async (...args) => {
      await clock.sleep(2_000)
      return store.claim(...args)
    },
  })) as [Leases]
  await slow.renew()
  const claiming = slow.balance()
  await clock.advance(2_000)
  await claiming
  assert.equal(slow.held().length, 16)
  await clock.advance(1_000)
  assert.equal(slow.held().length, 0)
})

test('wall clocks that are hours apart change nothing', async () => {
  const memory = memoryStore({ clock })
  const skewed = [-3_600_000, 3_600_000].map((skew) =>
    createLeases(memory.outbox.leases, memory, `skew ${skew}`, leaseMs, { ...clock, now: () => clock.now() + skew }),
  )
  await round(skewed)
  await round(skewed)
  assert.deepEqual(await round(skewed), [8, 8])
})

test('a claim whose answer was lost is found again', async () => {
  let lost = true
  const [unlucky] = relays(1, (store) => ({
    ...store,
    claim: async (...args) => {
      const claimed = await store.claim(...args)
      if (lost) throw new Error('connection lost')
      return claimed
    },
  })) as [Leases]
  await unlucky.renew()
  await assert.rejects(unlucky.balance())
  assert.equal(unlucky.held().length, 0)
  lost = false
  await unlucky.renew()
  assert.equal((await unlucky.balance()).length, 16)
  assert.equal(unlucky.held().length, 16)
})

test('a renewal under way does not take a claim for lost', async () => {
  let hold: Promise<void> | undefined
  const [one] = relays(1, (store) => ({
    ...store,
    renew: async (...args) => {
      const view = await store.renew(...args)
      await hold
      return view
    },
  })) as [Leases]
  await one.renew()
  hold = clock.sleep(100)
  const renewing = one.renew()
  const claiming = one.balance()
  await clock.advance(100)
  await Promise.all([renewing, claiming])
  assert.equal(one.held().length, 16)
})

test('a database that does not answer ends the call, not the relay', async () => {
  let hangs = true
  const [cut] = relays(1, (store) => ({ ...store, renew: (...args) => (hangs ? new Promise(() => {}) : store.renew(...args)) })) as [Leases]
  const renewing = assert.rejects(cut.renew(), { code: 'ERR_OUTBOX_STATEMENT_TIMEOUT' })
  await clock.advance(leaseMs)
  await renewing
  hangs = false
  await cut.renew()
  assert.equal((await cut.balance()).length, 16)
})
