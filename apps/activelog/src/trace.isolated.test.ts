import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import {
  type Context,
  context,
  type ContextManager,
  propagation,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  type TextMapPropagator,
  trace,
  type Tracer,
} from '@opentelemetry/api'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { draft, startService } from './service.fixture.ts'

interface Ended {
  name: string
  traceId: string
  spanId: string
  parent: string | undefined
}

/** The smallest tracer, propagator and context manager that OpenTelemetry's API takes. */
function record(): Ended[] {
  const ended: Ended[] = []
  const startSpan: Tracer['startSpan'] = (name, _, given = context.active()) => {
    const parent = trace.getSpanContext(given)
    const own: SpanContext = { traceId: parent?.traceId ?? randomBytes(16).toString('hex'), spanId: randomBytes(8).toString('hex'), traceFlags: 1 }
    const span = {
      spanContext: () => own,
      setAttribute: () => span,
      setStatus: () => span,
      recordException: () => {},
      end: () => void ended.push({ name, traceId: own.traceId, spanId: own.spanId, parent: parent?.spanId }),
    }
    return span as unknown as Span
  }
  trace.setGlobalTracerProvider({ getTracer: () => ({ startSpan }) as Tracer })

  const storage = new AsyncLocalStorage<Context>()
  const manager: ContextManager = {
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (active, fn, self, ...args) => storage.run(active, () => fn.apply(self, args)),
    bind: (_, target) => target,
    enable: () => manager,
    disable: () => manager,
  }
  context.setGlobalContextManager(manager)

  const w3c: TextMapPropagator<Record<string, string>> = {
    fields: () => ['traceparent'],
    inject(from, carrier) {
      const span = trace.getSpanContext(from)
      if (span) carrier['traceparent'] = `00-${span.traceId}-${span.spanId}-01`
    },
    extract(from, carrier) {
      const [, traceId = '', spanId = ''] = carrier['traceparent']?.split('-') ?? []
      return traceId === '' ? from : trace.setSpanContext(from, { traceId, spanId, traceFlags: 1, isRemote: true })
    },
  }
  propagation.setGlobalPropagator(w3c as TextMapPropagator)
  return ended
}

test('one trace leads from the caller through the request and the broker to the handlers, and to the audit line', async (t) => {
  const spans = record()
  const { ask, database } = await startService(t)
  const caller = { traceId: '0af7651916cd43dd8448eb211c80319c', spanId: 'b7ad6b7169203331' }
  await ask('POST', '/activities', { body: draft, headers: { traceparent: `00-${caller.traceId}-${caller.spanId}-01` } })
  const named = (name: string): Ended | undefined => spans.find((span) => span.name === name && span.traceId === caller.traceId)
  const handled = await waitUntil(() => spans.filter((span) => span.name === 'process activities' && span.traceId === caller.traceId).at(0))
  const request = named('POST /activities')!
  const published = named('publish activities')!
  assert.deepEqual([request.parent, published.parent, handled.parent], [caller.spanId, request.spanId, published.spanId])
  const { rows } = await waitUntil(async () => {
    const found = await database.client.query('SELECT trace_id FROM tenant_acme.audit')
    return found.rows.length === 1 && found
  })
  assert.deepEqual(rows, [{ trace_id: caller.traceId }])
})
