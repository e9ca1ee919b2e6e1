import { randomUUID } from 'node:crypto'

export interface Activity {
  id: string
  userId: number
  type: string
  title: string
  description?: string
  durationMinutes: number
  distanceKm?: number
  caloriesBurned?: number
  notes?: string
  activityDate: string
  createdAt: string
  updatedAt: string
  version: number
}

// No NUL and no half characters, as PostgreSQL and JSON need it; not blank.
const text = (max: number): object => ({ type: 'string', maxLength: max, pattern: String.raw`^[^\u0000\ud800-\udfff]*$` })

/** JSON Schema of what a client may write; dates and decimals are looked at afterwards. */
export const bodySchema: object = {
  type: 'object',
  additionalProperties: false,
  required: ['userId', 'type', 'title', 'durationMinutes', 'activityDate'],
  properties: {
    userId: { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
    type: { enum: ['running', 'cycling', 'swimming', 'walking', 'hiking', 'yoga', 'strength', 'other'] },
    title: { allOf: [text(200), { type: 'string', pattern: String.raw`\S` }] },
    description: text(2_000),
    durationMinutes: { type: 'integer', minimum: 1, maximum: 1_440 },
    distanceKm: { type: 'number', minimum: 0, maximum: 100_000 },
    caloriesBurned: { type: 'integer', minimum: 0, maximum: 100_000 },
    notes: text(10_000),
    activityDate: { type: 'string', pattern: String.raw`^\d{4}-\d{2}-\d{2}$` },
  },
}

/** What JSON Schema cannot say. Gives the field that is wrong. */
export function fault({ activityDate, distanceKm = 0 }: Pick<Activity, 'activityDate' | 'distanceKm'>, now: number): string | undefined {
  const time = Date.parse(`${activityDate}T00:00:00Z`)
  const exists = !Number.isNaN(time) && new Date(time).toISOString().startsWith(activityDate) && activityDate >= '1900-01-01'
  if (!exists || activityDate > new Date(now + 86_400_000).toISOString().slice(0, 10)) return 'activityDate'
  return Number(distanceKm.toFixed(3)) === distanceKm ? undefined : 'distanceKm'
}

export function badgesOf({ type, distanceKm = 0, durationMinutes }: Activity): string[] {
  const badges: string[] = []
  if (type === 'running' && distanceKm >= 42.195) badges.push('marathon')
  if (type === 'cycling' && distanceKm >= 100) badges.push('century-ride')
  if (type === 'swimming' && distanceKm >= 3) badges.push('open-water')
  if (durationMinutes >= 240) badges.push('long-haul')
  if (type === 'yoga' && durationMinutes >= 60) badges.push('inner-peace')
  return badges
}

/** UUIDv7. */
export function newId(): string {
  const time = Date.now().toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`
}
