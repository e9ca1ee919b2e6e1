import { type Context, context, type Span, SpanKind, SpanStatusCode, trace, TraceFlags } from '@opentelemetry/api'

const tracer = trace.getTracer('@core-backend/activelog')
const w3c = /^(?!ff)[\da-f]{2}-(?!0{32})([\da-f]{32})-(?!0{16})([\da-f]{16})-([\da-f]{2})(-|$)/

/** One request in its trace. */
export interface RequestTrace {
  /** W3C Trace Context, for what follows from the request. */
  readonly traceparent: string
  readonly traceId: string
  /** Runs `fn` inside the request's span. */
  run<T>(fn: () => T): T
  end(status: number): void
}

/**
 * Continues the caller's trace, else begins one; with a tracer provider as a span, without one by handing its ids on, so that logs and events of one request
 * still find each other. `requestId` is the UUID that a trace of ours is named after.
 */
export function traceRequest(name: string, given: string | null, requestId: string): RequestTrace {
  const [, givenTrace, givenSpan, givenFlags] = w3c.exec(given ?? '') ?? []
  let parent: Context = context.active()
  if (givenTrace !== undefined && givenSpan !== undefined) {
    const traceFlags = Number.parseInt(givenFlags ?? '0', 16) & TraceFlags.SAMPLED
    parent = trace.setSpanContext(parent, { traceId: givenTrace, spanId: givenSpan, traceFlags, isRemote: true })
  }
  const span: Span = tracer.startSpan(name, { kind: SpanKind.SERVER }, parent)
  const own = span.spanContext()
  const valid = trace.isSpanContextValid(own)
  const hex = requestId.replaceAll('-', '')
  const traceId = valid ? own.traceId : hex
  return {
    traceparent: valid ? `00-${own.traceId}-${own.spanId}-0${own.traceFlags & 1}` : `00-${hex}-${hex.slice(16)}-00`,
    traceId,
    run: (fn) => context.with(trace.setSpan(parent, span), fn),
    end(status) {
      span.setAttribute('http.response.status_code', status)
      if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR })
      span.end()
    },
  }
}
