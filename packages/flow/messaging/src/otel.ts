import { context, propagation, SpanKind, SpanStatusCode, trace, type Tracer } from '@opentelemetry/api'
import { type Checks, checkOptions, having, isString } from '#internal/options'
import { errorText } from '#internal/thrown'
import type { Tracing } from './hooks.ts'

/** Whose spans these are. */
export interface OpenTelemetryOptions {
  /** @default the global provider's tracer of this package */
  tracer?: Tracer | undefined
  /** `messaging.system` of the spans. @default 'core-backend' */
  system?: string | undefined
}

const checks: Checks<OpenTelemetryOptions> = { tracer: having('startSpan'), system: isString }

/**
 * Spans for publish and for each handler run, and W3C trace context in the messages' headers: `createBroker(driver, { tracing: openTelemetry() })`.
 * Names and attributes follow OpenTelemetry's semantic conventions for messaging. A message that carries a context already (from an outbox) continues it.
 */
export function openTelemetry(options: OpenTelemetryOptions = {}): Tracing {
  checkOptions('openTelemetry', options, checks)
  const { tracer = trace.getTracer('@core-backend/messaging'), system = 'core-backend' } = options
  return {
    publish: ({ topic, id, headers }) => {
      const parent = headers['traceparent'] === undefined ? context.active() : propagation.extract(context.active(), headers)
      const attributes = {
        'messaging.system': system,
        'messaging.operation.type': 'send',
        'messaging.operation.name': 'publish',
        'messaging.destination.name': topic,
        'messaging.message.id': id,
      }
      const span = tracer.startSpan(`publish ${topic}`, { kind: SpanKind.PRODUCER, attributes }, parent)
      propagation.inject(trace.setSpan(parent, span), headers)
      return (error) => {
        if (error !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : 'failed' })
        span.end()
      }
    },

    handle: (message, { group, partition }, next) => {
      const parent = propagation.extract(context.active(), message.headers)
      const attributes = {
        'messaging.system': system,
        'messaging.operation.type': 'process',
        'messaging.operation.name': 'process',
        'messaging.destination.name': message.topic,
        'messaging.destination.partition.id': String(partition),
        'messaging.message.id': message.id,
        ...(group === undefined ? {} : { 'messaging.consumer.group.name': group }),
      }
      const span = tracer.startSpan(`process ${message.topic}`, { kind: SpanKind.CONSUMER, attributes }, parent)
      const run = async (): Promise<unknown> => {
        try {
          return await next()
        } catch (error) {
          span.recordException(error instanceof Error ? error : errorText(error))
          span.setStatus({ code: SpanStatusCode.ERROR })
          throw error
        } finally {
          span.end()
        }
      }
      return context.with(trace.setSpan(parent, span), run)
    },
  }
}
