import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLeases, type Leases, type LeaseStore } from './leases.ts'
import { virtualClock, type VirtualClock } from './virtual-clock.ts'

const leaseMs = 1_000

/** A store of one group with a clock of its own, and its members. */
function group(partitions: number): {
  clock: VirtualClock
  cursors: { owner: string | undefined; epoch: number; until: number }[]
  join(name: string): Member
  holders(): (string | undefined)[]
} {
  const clock = virtualClock()
  const cursors = Array.from({ length: partitions }, () => ({ owner: undefined as string | undefined, epoch: 0, until: 0 }))
  const members = new Map<string, number>()
  const live = (p: number): boolean => cursors[p]!.owner !== undefined && cursors[p]!.until > clock.now()

  const join = (name: string): Member => {
    const told: string[] = []
    const errors: unknown[] = []
    const state: Member['state'] = { reachable: true, hangs: false, releases: true, sending: undefined }
    const call = async <T>(work: () => T): Promise<T> => {
      if (state.hangs) await new Promise(() => undefined)
      await state.sending
      if (!state.reachable) throw new Error('not reachable')
      return work()
    }
    const store: LeaseStore = {
      beat: (held, ttlMs) =>
        call(() => {
          members.set(name, clock.now() + ttlMs)
          // A renewal that comes late is in time as long as nobody has taken the lease.
          for (const [p, epoch] of held) if (cursors[p]!.owner === name && cursors[p]!.epoch === epoch) cursors[p]!.until = clock.now() + ttlMs
          return {
            members: [...members].flatMap(([id, until]) => (until > clock.now() ? [id] : [])).sort(),
            leases: cursors.map(({ owner, epoch }, partition) => ({ partition, owner: live(partition) ? owner : undefined, epoch })),
          }
        }),
      claim: (p, ttlMs) =>
        call(() => {
          const cursor = cursors[p]!
          if (live(p) && cursor.owner !== name) return undefined
          Object.assign(cursor, { owner: name, until: clock.now() + ttlMs })
          return ++cursor.epoch
        }),
      release: (p, epoch) =>
        call(() => {
          if (cursors[p]!.owner === name && cursors[p]!.epoch === epoch) cursors[p]!.owner = undefined
        }),
      leave: () => call(() => void members.delete(name)),
    }
    const leases = createLeases(
      store,
      name,
      {
        assigned: (p, epoch) => told.push(`assigned ${p}/${epoch}`),
        revoking: (p) => {
          told.push(`revoking ${p}`)
          if (state.releases) void leases.release(p, leases.held(p)!)
        },
        lost: (p) => told.push(`lost ${p}`),
        renewed: (error) => {
          if (error !== undefined) errors.push(error)
        },
      },
      { clock, leaseMs, onRenewed: (p, late) => late && told.push(`revived ${p}`) },
    )
    return { leases, told, errors, state, holds: () => cursors.flatMap((_, p) => (leases.held(p) === undefined ? [] : [p])) }
  }
  return { clock, cursors, join, holders: () => cursors.map(({ owner }, p) => (live(p) ? owner : undefined)) }
}

interface Member {
  readonly leases: Leases
  readonly told: string[]
  readonly errors: unknown[]
  /** What it can do: reach the store; get answers; let go when asked. What it asks reaches the store once `sending` is over. */
  readonly state: { reachable: boolean; hangs: boolean; releases: boolean; sending: Promise<void> | undefined }
  holds(): number[]
}

test('the first member has everything at once, and keeps it', async () => {
  const { clock, join, cursors } = group(3)
  const a = join('a')
  await a.leases.start()
  assert.deepEqual(a.told, ['assigned 0/1', 'assigned 1/1', 'assigned 2/1'])
  await clock.advance(20 * leaseMs)
  assert.deepEqual(a.holds(), [0, 1, 2])
  assert.equal(a.told.length, 3)
  assert.deepEqual(
    cursors.map(({ epoch }) => epoch),
    [1, 1, 1],
  )
})

test('members have their fair share, whoever comes and goes, and at no time one partition twice', async () => {
  const { clock, join, holders } = group(8)
  const members = ['a', 'b', 'c', 'd', 'e'].map(join)
  const shares = (): number[] => members.map(({ holds }) => holds().length).filter((n) => n > 0)
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 40; i++) {
      await clock.advance(leaseMs / 10)
      const held = members.flatMap(({ holds }) => holds())
      assert.equal(new Set(held).size, held.length, 'one owner a partition')
    }
    assert.ok(
      holders().every((holder) => holder !== undefined),
      'everything is held',
    )
  }
  for (const [i, { leases }] of members.entries()) {
    await leases.start()
    await settle()
    const [least, most] = [Math.floor(8 / (i + 1)), Math.ceil(8 / (i + 1))]
    assert.ok(shares().length === i + 1 && shares().every((n) => n >= least && n <= most), `${i + 1} members have ${shares().join(', ')}`)
  }
  for (const { leases, holds } of members.slice(0, 4)) {
    for (const p of holds()) await leases.release(p, leases.held(p)!)
    await leases.close()
    await settle()
  }
  assert.deepEqual(members[4]!.holds(), [0, 1, 2, 3, 4, 5, 6, 7])
})

test('who joins moves nothing that is fair already', async () => {
  const { clock, join } = group(1)
  const b = join('b')
  const a = join('a')
  await b.leases.start()
  await a.leases.start()
  await clock.advance(10 * leaseMs)
  assert.deepEqual([a.told, b.told], [[], ['assigned 0/1']])
})

test('a member that falls silent loses its leases to another, under a larger epoch, and not before they are over', async () => {
  const { clock, join } = group(1)
  const [a, b] = [join('a'), join('b')]
  await a.leases.start()
  await b.leases.start()
  a.state.reachable = false
  const silentAt = clock.monotonic()
  while (b.holds().length === 0) await clock.advance(10)
  assert.ok(clock.monotonic() - silentAt >= leaseMs * 0.7, 'the lease ran on')
  assert.ok(clock.monotonic() - silentAt <= leaseMs * 1.5, 'it is noticed soon')
  assert.equal(b.leases.held(0), 2)
  assert.deepEqual(a.told, ['assigned 0/1', 'lost 0'])
})

test('a lease is over for its holder before the store frees it: at no time two believe to hold it', async () => {
  const { clock, join } = group(2)
  const [a, b] = [join('a'), join('b')]
  await a.leases.start()
  await b.leases.start()
  await clock.advance(3 * leaseMs)
  a.state.hangs = true
  for (let i = 0; i < 300; i++) {
    await clock.advance(10)
    for (const p of a.holds()) assert.equal(b.leases.held(p), undefined)
  }
  assert.deepEqual(a.holds(), [])
  assert.deepEqual(b.holds(), [0, 1])
})

test('a member that stalls longer than its lease finds out as soon as it goes on, by what it is asked first', async () => {
  const { clock, join, cursors } = group(1)
  const a = join('a')
  await a.leases.start()
  // A process that stands still: its time passes, none of its timers has run yet.
  const stalled = clock.jump(2 * leaseMs)
  assert.equal(a.leases.held(0), undefined, 'it does not believe in its lease')
  await stalled
  await clock.advance(leaseMs)
  assert.equal(a.leases.held(0), cursors[0]!.epoch)
  assert.ok(a.told.includes('lost 0') || a.told.includes('revived 0'))
})

test('a renewal that reaches the store after its member has given the lease up does not keep it from that member', async () => {
  const { clock, join } = group(2)
  const a = join('a')
  await a.leases.start()
  const sent = Promise.withResolvers<void>()
  a.state.sending = sent.promise
  await clock.advance(2 * leaseMs)
  assert.deepEqual(a.told.splice(0), ['assigned 0/1', 'assigned 1/1', 'lost 0', 'lost 1'])
  a.state.sending = undefined
  sent.resolve()
  await clock.advance(0)
  assert.deepEqual(a.told, ['assigned 0/2', 'assigned 1/2'])
})

test('of two lives of one member the earlier one takes nothing back', async () => {
  const { clock, join } = group(1)
  const [first, second] = [join('a'), join('a')]
  await first.leases.start()
  await second.leases.start()
  await clock.advance(10 * leaseMs)
  assert.deepEqual([first.told, second.told], [['assigned 0/1', 'lost 0'], ['assigned 0/2']])
})

test('a member of the same name takes back at once what its earlier life held', async () => {
  const { join } = group(2)
  const first = join('a')
  await first.leases.start()
  first.state.reachable = false
  const second = join('a')
  await second.leases.start()
  assert.deepEqual(second.told, ['assigned 0/2', 'assigned 1/2'])
})

test('who does not let go when asked loses the partition after a lease', async () => {
  const { clock, join } = group(2)
  const [a, b] = [join('a'), join('b')]
  a.state.releases = false
  await a.leases.start()
  await b.leases.start()
  await clock.advance(leaseMs / 2)
  const [asked] = a.told.filter((what) => what.startsWith('revoking'))
  assert.ok(asked)
  assert.equal(a.holds().length, 2, 'it is still its own')
  await clock.advance(3 * leaseMs)
  assert.ok(a.told.includes(asked.replace('revoking', 'lost')))
  assert.deepEqual([a.holds().length, b.holds().length], [1, 1])
})

test('a release of an epoch that is over frees nothing', async () => {
  const { join, cursors } = group(1)
  const a = join('a')
  await a.leases.start()
  await a.leases.release(0, 0)
  assert.equal(cursors[0]!.owner, 'a')
  await a.leases.release(0, 1)
  assert.equal(cursors[0]!.owner, undefined)
  assert.equal(a.leases.held(0), undefined)
})

test('a failing store is told of, at the start by the start itself, and does not end the rounds', async () => {
  const { clock, join } = group(1)
  const a = join('a')
  a.state.reachable = false
  await assert.rejects(a.leases.start(), /not reachable/)
  a.state.reachable = true
  await a.leases.start()
  a.state.reachable = false
  await clock.advance(leaseMs)
  assert.ok(a.errors.length > 1)
  a.state.reachable = true
  await clock.advance(leaseMs)
  assert.deepEqual(a.holds(), [0])
})

test('close ends the rounds and leaves no timer', async () => {
  const { clock, join } = group(2)
  const a = join('a')
  await a.leases.start()
  await clock.advance(leaseMs)
  await Promise.all([a.leases.close(), a.leases.close()])
  await clock.advance(0)
  assert.equal(clock.sleeping, 0)
})
