import { z } from 'zod'
import type { ActivityFilter } from '../../application/ports.ts'
import { type ActivityType, activityTypes } from '../../domain/activity.ts'
import { beginning } from '../../infrastructure/event-log.ts'
import { badField, HttpError } from './problem.ts'

const uuid = /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/i
const uuidv7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/

export const isUuid = (text: string): boolean => uuid.test(text)

/** The caller's own id for the request, if it is fit for a log line. */
export function readRequestId({ headers }: Request): string | undefined {
  const given = headers.get('x-request-id')
  return given !== null && /^[\w.:-]{1,128}$/.test(given) ? given : undefined
}

export function readTenant({ headers }: Request, tenants: ReadonlySet<string>): string {
  const tenant = headers.get('x-tenant-id')
  if (tenant === null || tenant === '') throw badField('X-Tenant-ID', 'is required')
  // Names have no comma: it stands between two headers.
  if (tenant.includes(',')) throw badField('X-Tenant-ID', 'is given twice')
  if (!tenants.has(tenant)) throw new HttpError(404, 'There is no such tenant', [{ field: 'X-Tenant-ID', detail: 'is not a tenant' }])
  return tenant
}

export function readIdempotencyKey({ headers }: Request): string | undefined {
  const key = headers.get('idempotency-key')
  if (key === null) return undefined
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) throw badField('Idempotency-Key', 'must be 1 to 255 visible ASCII characters without spaces')
  return key
}

export function readLastEventId({ headers }: Request): string | undefined {
  const id = headers.get('last-event-id')
  if (id === null || id === '') return undefined
  if (!uuidv7.test(id) && id !== beginning.id) throw badField('Last-Event-ID', `must be an id that a stream gave, got ${JSON.stringify(id.slice(0, 100))}`)
  return id
}

const userIds = `must be an integer from 1 to ${Number.MAX_SAFE_INTEGER}`
const isUserId = (text: string): boolean => /^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text)) && Number(text) >= 1

export function readUserId(field: string, text: string): number {
  if (!isUserId(text)) throw badField(field, userIds)
  return Number(text)
}

const days = z.iso.date()
const isDay = (text: string): boolean => days.safeParse(text).success && text >= '0001-01-01'
const date = [isDay, 'must be a date that exists, as YYYY-MM-DD'] as const

/** Each parameter, and what it must be. */
const parameters = new Map<string, readonly [fits: (text: string, tenant: string) => boolean, fault: string]>([
  ['userId', [isUserId, userIds]],
  ['type', [(text) => activityTypes.some((type) => type === text), `must be one of ${activityTypes.join(', ')}`]],
  ['from', date],
  ['to', date],
  ['cursor', [(text, tenant) => readCursor(text, tenant) !== undefined, 'must be the nextCursor of a page of this tenant']],
  ['limit', [(text) => /^([1-9]\d?|100)$/.test(text), 'must be an integer from 1 to 100']],
])

/** `userId`, `type`, `from`, `to`, `cursor`, `limit`, each at most once. Throws {@link HttpError} with every fault. */
export function readListQuery(params: URLSearchParams, tenant: string): ActivityFilter {
  const given = new Map<string, string>()
  const faults = new Map<string, string>()
  for (const [name, text] of params) {
    const [fits, fault] = parameters.get(name) ?? [() => false, 'is not a parameter']
    if (given.has(name)) faults.set(name, 'is given twice')
    else if (!fits(text, tenant)) faults.set(name, fault)
    given.set(name, text)
  }
  const [userId, type, from, to, cursor, limit] = Array.from(parameters.keys(), (name) => given.get(name))
  if (from !== undefined && to !== undefined && from > to && !faults.has('from') && !faults.has('to')) {
    faults.set('from', `must not be later than to, which is ${to}`)
    faults.set('to', `must not be earlier than from, which is ${from}`)
  }
  if (faults.size > 0)
    throw new HttpError(
      400,
      'The query is invalid',
      Array.from(faults, ([name, detail]) => ({ field: name.slice(0, 100), detail })),
    )
  return {
    ...(userId !== undefined && { userId: Number(userId) }),
    ...(type !== undefined && { type: type as ActivityType }),
    ...(from !== undefined && { from }),
    ...(to !== undefined && { to }),
    ...(cursor !== undefined && { before: readCursor(cursor, tenant)! }),
    limit: Number(limit ?? 20),
  }
}

/** Where the next page begins. It names its tenant, so that another's is refused and not silently taken for one's own. */
export const cursorOf = (tenant: string, id: string): string => Buffer.from(`${tenant}/${id}`).toString('base64url')

function readCursor(cursor: string, tenant: string): string | undefined {
  const [whose, id = ''] = Buffer.from(cursor.slice(0, 200), 'base64url').toString().split('/')
  return whose === tenant && isUuid(id) ? id : undefined
}
