import type { Activity } from './activity.ts'

export type Badge = 'marathon' | 'century-ride' | 'open-water' | 'long-haul' | 'inner-peace'

const earned: Record<Badge, (activity: Activity) => boolean> = {
  marathon: ({ type, distanceKm = 0 }) => type === 'running' && distanceKm >= 42.195,
  'century-ride': ({ type, distanceKm = 0 }) => type === 'cycling' && distanceKm >= 100,
  'open-water': ({ type, distanceKm = 0 }) => type === 'swimming' && distanceKm >= 3,
  'long-haul': ({ durationMinutes }) => durationMinutes >= 240,
  'inner-peace': ({ type, durationMinutes }) => type === 'yoga' && durationMinutes >= 60,
}

/** What one activity earns its user. Decided by the activity alone, so a correction or a deletion takes it back. */
export function badgesOf(activity: Activity): readonly Badge[] {
  return (Object.keys(earned) as Badge[]).filter((badge) => earned[badge](activity))
}
