import { z } from 'zod'

export const activityTypes = ['running', 'cycling', 'swimming', 'walking', 'hiking', 'yoga', 'strength', 'other'] as const
export type ActivityType = (typeof activityTypes)[number]

/** Text that PostgreSQL and JSON carry unchanged: no NUL, no half characters. Its length counts characters, not UTF-16 units. */
const text = (min: number, max: number): z.ZodType<string, string> =>
  z.string().refine(
    // Whatever is longer than twice `max` units has more characters than `max`, and is not counted.
    (value) => value.isWellFormed() && !value.includes('\0') && value.length <= 2 * max && value.trim().length >= min && Array.from(value).length <= max,
    `must be ${min} to ${max} characters, ${min > 0 ? 'not blank, ' : ''}without NUL or lone surrogates`,
  )

const bounds = `must be an integer from 1 to ${Number.MAX_SAFE_INTEGER}`
const userId = z.int(bounds).positive(bounds)

/** What a client may write and later change. Distances are kept to the metre. */
const changeable = {
  type: z.enum(activityTypes, `must be one of ${activityTypes.join(', ')}`),
  title: text(1, 200),
  description: text(0, 2_000),
  durationMinutes: z.int('must be an integer from 1 to 1440').min(1, 'must be an integer from 1 to 1440').max(1_440, 'must be an integer from 1 to 1440'),
  distanceKm: z
    .number('must be a number from 0 to 100000')
    .min(0, 'must be a number from 0 to 100000')
    .max(100_000, 'must be a number from 0 to 100000')
    .refine((km) => Number(km.toFixed(3)) === km, 'must have at most three decimals'),
  caloriesBurned: z
    .int('must be an integer from 0 to 100000')
    .min(0, 'must be an integer from 0 to 100000')
    .max(100_000, 'must be an integer from 0 to 100000'),
  notes: text(0, 10_000),
  activityDate: z.iso
    .date({ error: 'must be a date that exists, as YYYY-MM-DD', abort: true })
    .refine((date) => date >= '1900-01-01', 'must not be before 1900-01-01'),
}

const optional = {
  description: changeable.description.optional(),
  distanceKm: changeable.distanceKm.optional(),
  caloriesBurned: changeable.caloriesBurned.optional(),
  notes: changeable.notes.optional(),
}

/** An activity as clients, events and tables have it. */
export interface Activity {
  readonly id: string
  readonly userId: number
  readonly type: ActivityType
  readonly title: string
  readonly description?: string | undefined
  readonly durationMinutes: number
  readonly distanceKm?: number | undefined
  readonly caloriesBurned?: number | undefined
  readonly notes?: string | undefined
  /** `YYYY-MM-DD`. */
  readonly activityDate: string
  /** ISO 8601 in UTC, as `updatedAt`. */
  readonly createdAt: string
  readonly updatedAt: string
  /** Counts the changes, from 1. */
  readonly version: number
}

export const activitySchema: z.ZodType<Activity, Activity> = z.object({
  id: z.string(),
  userId,
  ...changeable,
  ...optional,
  createdAt: z.string(),
  updatedAt: z.string(),
  version: z.int().positive(),
})

const draftSchema = z.strictObject({ userId, ...changeable, ...optional })
/** `null` takes an optional field away. */
const changesSchema = z
  .strictObject({
    ...changeable,
    description: changeable.description.nullable(),
    distanceKm: changeable.distanceKm.nullable(),
    caloriesBurned: changeable.caloriesBurned.nullable(),
    notes: changeable.notes.nullable(),
  })
  .partial()

export interface Fault {
  /** Empty for the request as a whole. */
  readonly field: string
  readonly detail: string
}

/** What was written is not an activity; one fault for each field. */
export class InvalidActivityError extends Error {
  override readonly name = 'InvalidActivityError'
  readonly code = 'ERR_ACTIVELOG_INVALID'
  readonly retryable = false
  readonly faults: readonly Fault[]
  constructor(faults: readonly Fault[]) {
    super(`Invalid activity: ${faults.map(({ field, detail }) => `${field} ${detail}`.trim()).join('; ')}`)
    this.faults = faults
  }
}

/** Throws {@link InvalidActivityError}. */
export function newActivity(input: unknown, { id, now }: { id: string; now: Date }): Activity {
  const draft = parsed(draftSchema, input)
  checkDate(draft.activityDate, now)
  const at = now.toISOString()
  return { id, ...draft, createdAt: at, updatedAt: at, version: 1 }
}

/** The next version. Throws {@link InvalidActivityError}. */
export function changedActivity(activity: Activity, input: unknown, now: Date): Activity {
  const changes = parsed(changesSchema, input)
  if (Object.keys(changes).length === 0) throw new InvalidActivityError([{ field: '', detail: 'must change at least one field' }])
  if (changes.activityDate !== undefined) checkDate(changes.activityDate, now)
  const next = { ...activity, ...changes, updatedAt: now.toISOString(), version: activity.version + 1 }
  return Object.fromEntries(Object.entries(next).filter(([, value]) => value !== null && value !== undefined)) as unknown as Activity
}

/** The last version: its event says so. */
export function deletedActivity(activity: Activity, now: Date): Activity {
  return { ...activity, updatedAt: now.toISOString(), version: activity.version + 1 }
}

/** A day in UTC, as `YYYY-MM-DD`, some days from `now`. */
export function dayOf(now: Date, days = 0): string {
  return new Date(now.getTime() + days * 86_400_000).toISOString().slice(0, 10)
}

/** Somewhere it is already tomorrow; nowhere is it later. */
function checkDate(date: string, now: Date): void {
  if (date > dayOf(now, 1)) throw new InvalidActivityError([{ field: 'activityDate', detail: 'must not be later than tomorrow' }])
}

function parsed<T>(schema: z.ZodType<T>, input: unknown): T {
  const result = schema.safeParse(input)
  if (result.success) return result.data
  const faults = result.error.issues.flatMap((issue) => faultsOf(issue, input))
  // A number may miss two bounds that are told in the same words.
  const told = new Map(faults.map((fault) => [`${fault.field} ${fault.detail}`, fault]))
  throw new InvalidActivityError([...told.values()])
}

function faultsOf({ code, path, message, ...issue }: z.core.$ZodIssue, input: unknown): Fault[] {
  const field = path.join('.')
  if (code === 'unrecognized_keys')
    return (issue as { keys: string[] }).keys.map((key) => ({ field: key.slice(0, 100), detail: 'is not a field that can be written' }))
  if (field === '') return [{ field, detail: 'must be a JSON object' }]
  if ((input as Record<string, unknown>)[field] === undefined) return [{ field, detail: 'is required' }]
  return [{ field, detail: message.replace(/^Invalid input: expected/, 'must be a') }]
}
