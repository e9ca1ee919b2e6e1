import assert from 'node:assert/strict'
import { test } from 'node:test'
import { dayOf } from './activity.ts'
import { type DaySum, statisticsOf } from './statistics.ts'

const sum = (day: string, more: Partial<DaySum> = {}): DaySum => ({
  day,
  type: 'running',
  activities: 1,
  minutes: 30,
  km: 5,
  updatedAt: `${day}T12:00:00.000Z`,
  ...more,
})
/** A Thursday. */
const now = new Date('2026-01-01T08:00:00Z')

test('a user who has done nothing has zeros', () => {
  const zero = { activities: 0, totalMinutes: 0, totalDistanceKm: 0 }
  assert.deepEqual(statisticsOf(7, [], now), {
    userId: 7,
    ...zero,
    byType: {},
    thisWeek: zero,
    thisMonth: zero,
    streakDays: 0,
    lastActivityDate: null,
    updatedAt: null,
  })
})

test('totals add up by type, distances to the metre', () => {
  const sums = [sum('2025-06-01', { km: 0.1 }), sum('2025-06-01', { type: 'yoga', activities: 2, minutes: 90, km: 0 }), sum('2025-07-01', { km: 0.2 })]
  const { activities, totalMinutes, totalDistanceKm, byType } = statisticsOf(7, sums, now)
  assert.deepEqual(
    { activities, totalMinutes, totalDistanceKm, byType },
    { activities: 4, totalMinutes: 150, totalDistanceKm: 0.3, byType: { running: 2, yoga: 2 } },
  )
})

test('the week is ISO, from Monday, across the turn of the year; the month is the calendar one', () => {
  const days = ['2025-12-28', '2025-12-29', '2025-12-31', '2026-01-01', '2026-01-04', '2026-01-05']
  const { thisWeek, thisMonth } = statisticsOf(
    7,
    days.map((day) => sum(day)),
    now,
  )
  assert.equal(thisWeek.activities, 4)
  assert.equal(thisMonth.activities, 3)
  const sunday = statisticsOf(7, [sum('2026-01-04'), sum('2026-01-05')], new Date('2026-01-04T23:59:59Z'))
  assert.equal(sunday.thisWeek.activities, 1)
})

test('a streak ends today or yesterday and not before; what lies ahead does not count', () => {
  const streak = (...back: number[]): number =>
    statisticsOf(
      7,
      back.map((days) => sum(dayOf(now, -days))),
      now,
    ).streakDays
  assert.equal(streak(0), 1)
  assert.equal(streak(0, 1, 2), 3)
  assert.equal(streak(1, 2), 2)
  assert.equal(streak(2, 3), 0)
  assert.equal(streak(0, 2), 1)
  assert.equal(streak(-1), 0)
  assert.equal(streak(-1, 0, 1), 2)
})

test('a day whose activities were all deleted or moved away is no day of activity, but its change counts as an update', () => {
  const { streakDays, lastActivityDate, byType, updatedAt } = statisticsOf(
    7,
    [sum('2026-01-01', { activities: 0, minutes: 0, km: 0 }), sum('2025-12-30', { updatedAt: '2025-12-30T00:00:00.000Z' })],
    now,
  )
  assert.deepEqual({ streakDays, lastActivityDate, byType }, { streakDays: 0, lastActivityDate: '2025-12-30', byType: { running: 1 } })
  assert.equal(updatedAt, '2026-01-01T12:00:00.000Z')
})
