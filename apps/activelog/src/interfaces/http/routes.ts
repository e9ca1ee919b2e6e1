import { METHODS } from 'node:http'
import { Hono } from 'hono'
import { routePath } from 'hono/route'
import type { ActivityUseCases, Caller } from '../../application/activities.ts'
import type { Logger } from '../../application/ports.ts'
import type { UserUseCases } from '../../application/statistics.ts'
import { readJson } from './body.ts'
import { type Check, healthOf } from './health.ts'
import type { Live } from './live.ts'
import type { Metrics } from './metrics.ts'
import { HttpError, problem, starting } from './problem.ts'
import { tellRefusals } from './refusals.ts'
import { cursorOf, isUuid, readIdempotencyKey, readLastEventId, readListQuery, readRequestId, readTenant, readUserId } from './request.ts'
import { type RequestTrace, traceRequest } from './tracing.ts'

export interface RouteDependencies {
  /** What clients use; absent in processes that only relay or work. */
  api?: { activities: ActivityUseCases; users: UserUseCases; live: Live; tenants: readonly string[] } | undefined
  /** `ready`: what must be up for this process to do its work. */
  checks: { ready: Record<string, Check>; health: Record<string, Check> }
  metrics: Metrics
  newId: () => string
  logger: Logger
}

interface Env {
  Variables: { requestId: string; trace: RequestTrace }
}

/** The answers until the service is there: who only asks whether the process lives must not end a start that takes its time. */
export const untilStarted = (request: Request): Response => (new URL(request.url).pathname === '/healthz' ? Response.json({ status: 'ok' }) : starting())

/** Everything that HTTP offers, from web-standard requests to responses. */
export function routes({ api, checks, metrics, newId, logger }: RouteDependencies): Hono<Env> {
  const app = new Hono<Env>()
  const tellRefusal = tellRefusals(logger)

  app.use(async (c, next) => {
    const began = performance.now()
    const id = newId()
    const requestId = readRequestId(c.req.raw) ?? id
    const trace = traceRequest(`${c.req.method} ${c.req.path}`, c.req.raw.headers.get('traceparent'), id)
    c.set('requestId', requestId)
    c.set('trace', trace)
    await trace.run(next)
    const { status } = c.res
    const seconds = (performance.now() - began) / 1_000
    c.res.headers.set('x-request-id', requestId)
    trace.end(status)
    const method = METHODS.includes(c.req.method) ? c.req.method : 'other'
    metrics.observe(method, routePath(c, -1), status, seconds)
    const fields = { requestId, traceId: trace.traceId, method: c.req.method, path: c.req.path, status, ms: Math.round(seconds * 1e5) / 100, err: c.error }
    // What is answered so on purpose is no fault of ours, as a stream too many, or what a probe asked for.
    if (status < 500 || !c.error || c.error instanceof HttpError) logger.debug(fields, 'Request')
    else if (!tellRefusal(fields)) logger.error(fields, 'Request failed')
  })
  app.onError((error, c) => problem(error, c.get('requestId')))
  app.notFound((c) => problem(new HttpError(404, `There is nothing at ${c.req.path.slice(0, 200)}`), c.get('requestId')))

  app.get('/healthz', (c) => c.json({ status: 'ok' }))
  app.get('/readyz', async (c) => {
    const report = await healthOf(checks.ready)
    return c.json(report, report.status === 'down' ? 503 : 200)
  })
  app.get('/health', async (c) => {
    const report = await healthOf(checks.health)
    return c.json(report, report.status === 'down' ? 503 : 200)
  })
  app.get('/metrics', async (c) => c.body(await metrics.render(), 200, { 'content-type': metrics.contentType }))
  if (api) serveClients(app, api)

  for (const [path, served] of Map.groupBy(app.routes, (route) => route.path)) {
    const methods = served.map(({ method }) => method).filter((method) => method !== 'ALL')
    if (methods.length === 0) continue
    const allow = methods
      .flatMap((method) => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
      .toSorted()
      .join(', ')
    app.all(path, (c) => {
      const response = problem(new HttpError(405, `${c.req.method} is not allowed here, only ${allow}`), c.get('requestId'))
      response.headers.set('allow', allow)
      return response
    })
  }
  return app
}

function serveClients(app: Hono<Env>, api: NonNullable<RouteDependencies['api']>): void {
  const { activities, users, live } = api
  const tenants = new Set(api.tenants)
  type Given = { req: { raw: Request }; get: { (key: 'requestId'): string; (key: 'trace'): RequestTrace } }
  const callerOf = (c: Given): Caller => ({
    tenantId: readTenant(c.req.raw, tenants),
    correlationId: c.get('requestId'),
    traceparent: c.get('trace').traceparent,
  })

  app.post('/activities', async (c) => {
    const caller = callerOf(c)
    const key = readIdempotencyKey(c.req.raw)
    const { activity, repeated } = await activities.post(caller, await readJson(c.req.raw), key)
    return c.json(activity, 201, { location: `/activities/${activity.id}`, ...(repeated && { 'idempotency-replayed': 'true' }) })
  })

  app.get('/activities', async (c) => {
    const caller = callerOf(c)
    const filter = readListQuery(new URL(c.req.url).searchParams, caller.tenantId)
    const found = await activities.list(caller, { ...filter, limit: filter.limit + 1 })
    const items = found.slice(0, filter.limit)
    return c.json({ items, nextCursor: found.length > items.length ? cursorOf(caller.tenantId, items.at(-1)!.id) : null })
  })

  app.get('/activities/:id', async (c) => c.json(await activities.get(callerOf(c), readActivityId(c.req.param('id')))))
  app.patch('/activities/:id', async (c) => {
    const caller = callerOf(c)
    return c.json(await activities.patch(caller, readActivityId(c.req.param('id')), await readJson(c.req.raw)))
  })
  app.delete('/activities/:id', async (c) => {
    await activities.delete(callerOf(c), readActivityId(c.req.param('id')))
    return c.body(null, 204)
  })

  app.get('/users/:id/stats', async (c) => c.json(await users.statistics(callerOf(c).tenantId, readUserId('userId', c.req.param('id')))))
  app.get('/users/:id/badges', async (c) => c.json({ items: await users.badges(callerOf(c).tenantId, readUserId('userId', c.req.param('id'))) }))

  app.get('/events', async (c) => {
    const { tenantId } = callerOf(c)
    const headers = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-store', 'x-accel-buffering': 'no' }
    const lastEventId = readLastEventId(c.req.raw)
    // Nobody reads, or ends, the stream that would answer a HEAD.
    return c.req.method === 'HEAD' ? c.body(null, 200, headers) : c.body(await live.open(tenantId, lastEventId), 200, headers)
  })
}

/** What is no id names no activity. */
function readActivityId(id: string): string {
  if (!isUuid(id)) throw new HttpError(404, 'There is no such activity')
  return id.toLowerCase()
}
