import { type Context, context, SpanKind, SpanStatusCode, trace } from '@opentelemetry/api'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client'
import { type Activity, bodySchema, fault, newId } from './activity.ts'
import type { Database } from './database.ts'
import { post } from './store.ts'

export interface HttpOptions {
  db: Database
  pipeline: boolean
  tenants: readonly string[]
  logger: FastifyBaseLogger
  onCommit(): void
  /** For `/events`; returns how to stop. */
  listen(tenant: string, send: (id: string, name: string, activity: Activity) => void): () => void
}

interface Asking {
  began: number
  requestId: string
  traceparent: string
  traceId: string
  parent: Context
  end(status: number): void
}

const w3c = /^(?!ff)[\da-f]{2}-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})(-|$)/
const problem = (status: number, title: string, requestId: string, errors: object[] = []): object => ({ type: 'about:blank', title, status, requestId, errors })

/** `POST /activities`, `GET /users/:id/stats` (sums only), `/events`, `/healthz`, `/metrics`. */
export function routes({ db, pipeline, tenants, logger, onCommit, listen }: HttpOptions): FastifyInstance {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const seconds = new Histogram({
    name: 'activelog_http_request_duration_seconds',
    help: 'Duration of HTTP requests',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers: [registry],
  })
  const tracer = trace.getTracer('activelog')
  const asking = new WeakMap<object, Asking>()
  const known = new Set(tenants)

  const app = fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: 65_536,
    forceCloseConnections: true,
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false, allErrors: false } },
  })

  app.addHook('onRequest', (request, reply, next) => {
    const given = request.headers['x-request-id']
    const own = newId()
    const requestId = typeof given === 'string' && /^[\w.:-]{1,128}$/.test(given) ? given : own
    const [, givenTrace, givenSpan, flags] = w3c.exec(String(request.headers['traceparent'] ?? '')) ?? []
    let parent = context.active()
    if (givenTrace && givenSpan)
      parent = trace.setSpanContext(parent, { traceId: givenTrace, spanId: givenSpan, traceFlags: Number.parseInt(flags ?? '0', 16) & 1, isRemote: true })
    const span = tracer.startSpan(`${request.method} ${request.url}`, { kind: SpanKind.SERVER }, parent)
    const made = span.spanContext()
    const hex = own.replaceAll('-', '')
    const valid = trace.isSpanContextValid(made)
    asking.set(request, {
      began: performance.now(),
      requestId,
      traceparent: valid ? `00-${made.traceId}-${made.spanId}-0${made.traceFlags & 1}` : `00-${hex}-${hex.slice(16)}-00`,
      traceId: valid ? made.traceId : hex,
      parent: trace.setSpan(parent, span),
      end: (status) => {
        span.setAttribute('http.response.status_code', status)
        if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
        span.end()
      },
    })
    reply.header('x-request-id', requestId)
    context.with(asking.get(request)!.parent, next)
  })
  app.addHook('onResponse', (request, reply, next) => {
    const { began, requestId, traceId, end } = asking.get(request)!
    const ms = performance.now() - began
    end(reply.statusCode)
    seconds.observe({ method: request.method, route: request.routeOptions.url ?? '*', status: reply.statusCode }, ms / 1_000)
    request.log.debug({ requestId, traceId, method: request.method, path: request.url, status: reply.statusCode, ms }, 'Request')
    next()
  })
  app.setErrorHandler<Error & { statusCode?: number; validation?: { instancePath: string; message?: string }[] }>((error, request, reply) => {
    const status = error.validation ? 400 : (error.statusCode ?? 500)
    if (status >= 500) request.log.error({ err: error }, 'Request failed')
    const errors = (error.validation ?? []).map(({ instancePath, message }) => ({ field: instancePath.slice(1), detail: message }))
    return reply
      .code(status)
      .type('application/problem+json')
      .send(problem(status, status >= 500 ? 'Internal Server Error' : error.message, asking.get(request)!.requestId, errors))
  })

  app.post<{ Body: Omit<Activity, 'id'> }>('/activities', { schema: { body: bodySchema } }, async (request, reply) => {
    const { requestId, traceparent } = asking.get(request)!
    const refuse = (status: number, title: string, field: string): object =>
      reply
        .code(status)
        .type('application/problem+json')
        .send(problem(status, title, requestId, [{ field }]))
    const tenant = request.headers['x-tenant-id']
    if (typeof tenant !== 'string') return refuse(400, 'Bad Request', 'X-Tenant-ID')
    if (!known.has(tenant)) return refuse(404, 'Not Found', 'X-Tenant-ID')
    const key = request.headers['idempotency-key'] as string | undefined
    if (key !== undefined && !/^[\x21-\x7e]{1,255}$/.test(key)) return refuse(400, 'Bad Request', 'Idempotency-Key')
    const wrong = fault(request.body, Date.now())
    if (wrong !== undefined) return refuse(400, 'Bad Request', wrong)
    const outcome = await post(db, pipeline, { tenant, requestId, traceparent, key }, request.body)
    if (outcome === 'reused') return refuse(422, 'Unprocessable Content', 'Idempotency-Key')
    onCommit()
    if (outcome.repeated) reply.header('idempotency-replayed', 'true')
    return reply.code(201).header('location', `/activities/${outcome.activity.id}`).send(outcome.activity)
  })

  app.get<{ Params: { id: string } }>('/users/:id/stats', async (request, reply) => {
    const tenant = String(request.headers['x-tenant-id'])
    if (!known.has(tenant)) return reply.code(404).send(problem(404, 'Not Found', asking.get(request)!.requestId))
    const { rows } = await db.query(
      `SELECT coalesce(sum(activities), 0)::integer AS activities, coalesce(sum(minutes), 0)::integer AS "totalMinutes", coalesce(sum(km), 0)::float8 AS "totalDistanceKm"
       FROM "tenant_${tenant}".day_sums WHERE user_id = $1`,
      [request.params.id],
    )
    return { userId: Number(request.params.id), ...(rows[0] as object) }
  })

  app.get('/events', (request, reply) => {
    const tenant = String(request.headers['x-tenant-id'])
    if (!known.has(tenant)) return reply.code(404).send(problem(404, 'Not Found', asking.get(request)!.requestId))
    reply.hijack()
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-store' })
    const stop = listen(tenant, (id, name, activity) => reply.raw.write(`id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(activity)}\n\n`))
    reply.raw.on('close', stop)
    return reply
  })

  app.get('/healthz', () => ({ status: 'ok' }))
  app.get('/metrics', async (_, reply) => reply.type(registry.contentType).send(await registry.metrics()))
  return app
}
