import { type ActivityType, dayOf } from './activity.ts'

/** What a user did on one day in one discipline; what handlers keep. */
export interface DaySum {
  /** `YYYY-MM-DD`, UTC. */
  readonly day: string
  readonly type: ActivityType
  readonly activities: number
  readonly minutes: number
  readonly km: number
  /** ISO 8601. */
  readonly updatedAt: string
}

export interface Totals {
  activities: number
  totalMinutes: number
  totalDistanceKm: number
}

export interface Statistics extends Totals {
  userId: number
  byType: Partial<Record<ActivityType, number>>
  /** The ISO week, from Monday, and the month that `now` lies in. */
  thisWeek: Totals
  thisMonth: Totals
  /** Days in a row with an activity, up to today or yesterday. */
  streakDays: number
  lastActivityDate: string | null
  updatedAt: string | null
}

/** Everything that depends on today is worked out here, when somebody asks. */
export function statisticsOf(userId: number, sums: readonly DaySum[], now: Date): Statistics {
  const present = sums.filter(({ activities }) => activities > 0)
  const [monday, nextMonday] = weekOf(now)
  const month = dayOf(now).slice(0, 7)
  const byType: Statistics['byType'] = {}
  for (const { type, activities } of present) byType[type] = (byType[type] ?? 0) + activities
  const days = new Set(present.map(({ day }) => day))
  return {
    userId,
    ...totalsOf(present),
    byType,
    thisWeek: totalsOf(present.filter(({ day }) => day >= monday && day < nextMonday)),
    thisMonth: totalsOf(present.filter(({ day }) => day.startsWith(month))),
    streakDays: streakOf(days, now),
    lastActivityDate: latest([...days]),
    updatedAt: latest(sums.map(({ updatedAt }) => updatedAt)),
  }
}

/** The Monday of the ISO week and the next one. */
function weekOf(now: Date): [string, string] {
  const sinceMonday = (now.getUTCDay() + 6) % 7
  return [dayOf(now, -sinceMonday), dayOf(now, 7 - sinceMonday)]
}

function totalsOf(sums: readonly DaySum[]): Totals {
  const totals = { activities: 0, totalMinutes: 0, totalDistanceKm: 0 }
  for (const { activities, minutes, km } of sums) {
    totals.activities += activities
    totals.totalMinutes += minutes
    totals.totalDistanceKm += km
  }
  // Sums are exact to the metre in the table; adding them up as floats must not show.
  totals.totalDistanceKm = Number(totals.totalDistanceKm.toFixed(3))
  return totals
}

function streakOf(days: ReadonlySet<string>, now: Date): number {
  const end = days.has(dayOf(now)) ? 0 : 1
  let streak = 0
  while (days.has(dayOf(now, -end - streak))) streak++
  return streak
}

const latest = (texts: readonly string[]): string | null => texts.reduce<string | null>((a, b) => (a === null || b > a ? b : a), null)
