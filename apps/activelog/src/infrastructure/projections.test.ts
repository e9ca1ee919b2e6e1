import assert from 'node:assert/strict'
import { suite, test, type TestContext } from 'node:test'
import type { Activity } from '../domain/activity.ts'
import { newActivity } from '../domain/activity.ts'
import { type Statistics, statisticsOf } from '../domain/statistics.ts'
import { freshDatabase } from './database.fixture.ts'
import { type Projections, projections } from './projections.ts'
import { createTables } from './schema.ts'

const now = new Date('2026-03-01T12:00:00Z')
const first = newActivity(
  { userId: 1, type: 'running', title: 'x', durationMinutes: 30, distanceKm: 0.1, activityDate: '2026-03-01' },
  { id: '019c0000-0000-7000-8000-000000000001', now },
)
const version = (n: number, more: Partial<Activity> = {}): Activity => ({ ...first, version: n, ...more })

interface World {
  count(activity: Activity, deleted?: boolean): Promise<void>
  award: (activity: Activity, badges: Parameters<Projections['award']>[3]) => Promise<void>
  statistics(): Promise<Statistics>
  badges(): ReturnType<Projections['badges']>
}

async function world(t: TestContext): Promise<World> {
  const db = await freshDatabase(t)
  await createTables(db, ['acme'], [])
  const to = projections(db)
  return {
    count: (activity, deleted = false) => db.transaction((tx) => to.count(tx, 'acme', activity, deleted)),
    award: (activity, badges) => db.transaction((tx) => to.award(tx, 'acme', activity, badges)),
    statistics: async () => statisticsOf(1, await to.daySums('acme', 1), now),
    badges: () => to.badges('acme', 1),
  }
}

suite('sums', async () => {
  await test('follow an activity to another day, type and user, and out again', async (t) => {
    const { count, statistics } = await world(t)
    await count(first)
    await count(version(2, { activityDate: '2026-02-01', type: 'yoga', distanceKm: undefined }))
    const moved = await statistics()
    assert.deepEqual([moved.activities, moved.totalMinutes, moved.totalDistanceKm, moved.byType, moved.lastActivityDate], [1, 30, 0, { yoga: 1 }, '2026-02-01'])
    await count(version(3, { userId: 2 }))
    assert.equal((await statistics()).activities, 0)
    await count(version(4))
    await count(version(5), true)
    const gone = await statistics()
    assert.deepEqual([gone.activities, gone.totalMinutes, gone.totalDistanceKm, gone.byType], [0, 0, 0, {}])
  })

  await test("end the same in whatever order an activity's events come, and however often", async (t) => {
    const { count, statistics } = await world(t)
    const events: [Activity, boolean][] = [
      [version(1), false],
      [version(2, { durationMinutes: 40 }), false],
      [version(3, { durationMinutes: 50, activityDate: '2026-02-28' }), false],
      [version(4, { durationMinutes: 50, activityDate: '2026-02-28' }), true],
    ]
    let n = 0
    for (const order of permutations([0, 1, 2, 3])) {
      const id = `019c0000-0000-7000-8000-0000000001${(n++).toString(16).padStart(2, '0')}`
      for (const i of [...order, order[0]!]) await count({ ...events[i]![0], id }, events[i]![1])
    }
    for (const order of permutations([0, 1, 2])) {
      const id = `019c0000-0000-7000-8000-0000000001${(n++).toString(16).padStart(2, '0')}`
      for (const i of [...order, order[0]!]) await count({ ...events[i]![0], id }, events[i]![1])
    }
    const { activities, totalMinutes, totalDistanceKm } = await statistics()
    assert.deepEqual({ activities, totalMinutes, totalDistanceKm }, { activities: 6, totalMinutes: 300, totalDistanceKm: 0.6 })
  })

  await test('are right when everything of a user happens at once', async (t) => {
    const { count, statistics } = await world(t)
    const ids = Array.from({ length: 30 }, (_, n) => `019c0000-0000-7000-8000-00000000${(0x100 + n).toString(16).padStart(4, '0')}`)
    await Promise.all(
      ids.flatMap((id) => [
        count({ ...first, id }),
        count({ ...version(2, { durationMinutes: 60, activityDate: '2026-02-28' }), id }),
        count({ ...version(3, { durationMinutes: 60 }), id }),
      ]),
    )
    const { activities, totalMinutes } = await statistics()
    assert.deepEqual({ activities, totalMinutes }, { activities: 30, totalMinutes: 1_800 })
  })
})

suite('badges', async () => {
  await test('belong to the newest version of their activity, whichever comes last', async (t) => {
    const { award, badges } = await world(t)
    await award(version(1), ['marathon'])
    await award(version(2), ['marathon', 'long-haul'])
    assert.deepEqual(await badges(), [
      { badge: 'long-haul', times: 1, lastEarned: '2026-03-01' },
      { badge: 'marathon', times: 1, lastEarned: '2026-03-01' },
    ])
    await award(version(3), [])
    await award(version(1), ['marathon'])
    assert.deepEqual(await badges(), [])
  })
})

function permutations(items: readonly number[]): number[][] {
  return items.length < 2 ? [[...items]] : items.flatMap((item) => permutations(items.filter((other) => other !== item)).map((rest) => [item, ...rest]))
}
