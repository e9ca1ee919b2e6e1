import { z } from 'zod'
import type { ActivityFilter } from '../../application/ports.ts'
import { activityTypes } from '../../domain/activity.ts'
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
  if (!tenants.has(tenant)) throw new HttpError(404, 'There is no such tenant', [{ field: 'X-Tenant-ID', detail: 'is not a tenant' }])
  return tenant
}

export function readIdempotencyKey({ headers }: Request): string | undefined {
  const key = headers.get('idempotency-key')
  if (key === null) return undefined
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) throw badField('Idempotency-Key', 'must be 1 to 255 visible ASCII characters')
  return key
}

export function readLastEventId({ headers }: Request): string | undefined {
  const id = headers.get('last-event-id')
  if (id === null || id === '') return undefined
  if (!uuidv7.test(id) && id !== beginning.id) throw badField('Last-Event-ID', `must be an id that a stream gave, got ${JSON.stringify(id.slice(0, 100))}`)
  return id
}

export function readUserId(field: string, text: string): number {
  const id = Number(text)
  if (!/^\d{1,16}$/.test(text) || !Number.isSafeInteger(id) || id < 1) throw badField(field, `must be an integer from 1 to ${Number.MAX_SAFE_INTEGER}`)
  return id
}

const day = z.iso.date('must be a date that exists, as YYYY-MM-DD').refine((date) => date >= '0001-01-01', 'must be a date that exists, as YYYY-MM-DD')
const listQuery = z
  .strictObject({
    userId: z.string().optional(),
    type: z.enum(activityTypes, `must be one of ${activityTypes.join(', ')}`).optional(),
    from: day.optional(),
    to: day.optional(),
    cursor: z.string().optional(),
    limit: z
      .string()
      .regex(/^([1-9]\d?|100)$/, 'must be an integer from 1 to 100')
      .default('20'),
  })
  .superRefine(({ from, to }, context) => {
    if (from === undefined || to === undefined || from <= to) return
    context.addIssue({ code: 'custom', path: ['from'], message: `must not be later than to, which is ${to}` })
    context.addIssue({ code: 'custom', path: ['to'], message: `must not be earlier than from, which is ${from}` })
  })

/** `userId`, `type`, `from`, `to`, `cursor`, `limit`, each at most once. */
export function readListQuery(params: URLSearchParams, tenant: string): ActivityFilter {
  const given: Record<string, string> = {}
  for (const [name, value] of params) {
    if (Object.hasOwn(given, name)) throw badField(name.slice(0, 100), 'is given twice')
    given[name] = value
  }
  const result = listQuery.safeParse(given)
  if (!result.success) {
    const faults = result.error.issues.flatMap((issue) =>
      issue.code === 'unrecognized_keys'
        ? issue.keys.map((key) => ({ field: key.slice(0, 100), detail: 'is not a parameter' }))
        : [{ field: issue.path.join('.'), detail: issue.message }],
    )
    throw new HttpError(400, 'The query is invalid', faults)
  }
  const { userId, cursor, limit, ...filter } = result.data
  return {
    ...filter,
    ...(userId !== undefined && { userId: readUserId('userId', userId) }),
    ...(cursor !== undefined && { before: readCursor(cursor, tenant) }),
    limit: Number(limit),
  }
}

/** Where the next page begins. It names its tenant, so that another's is refused and not silently taken for one's own. */
export const cursorOf = (tenant: string, id: string): string => Buffer.from(`${tenant}/${id}`).toString('base64url')

function readCursor(cursor: string, tenant: string): string {
  const [whose, id = ''] = Buffer.from(cursor.slice(0, 200), 'base64url').toString().split('/')
  if (whose !== tenant || !isUuid(id)) throw badField('cursor', 'must be the nextCursor of a page of this tenant')
  return id
}
