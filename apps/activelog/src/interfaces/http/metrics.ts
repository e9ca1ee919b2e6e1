import type { ProcessorMetrics } from '@core-backend/events'
import { enough } from '@core-backend/internal/abort'
import { type Clock, systemClock } from '@core-backend/internal/clock'
import { collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { patienceMs } from './health.ts'

/** What is asked for at each scrape; each may fail on its own, or be late, and then keeps its last value. */
export interface MetricSources {
  outbox?: () => Promise<{ pending: number; oldestAgeMs: number; parked: number }>
  lag?: () => Promise<number>
  deadLetters?: () => Promise<number>
  relayPublished?: () => number
  handlers?: () => ProcessorMetrics
  listeners?: () => number
}

export interface Metrics {
  observe(method: string, route: string, status: number, seconds: number): void
  /** The text that Prometheus reads. */
  render(): Promise<string>
  readonly contentType: string
}

export function createMetrics(sources: MetricSources, { clock = systemClock }: { clock?: Clock } = {}): Metrics {
  const registry = new Registry()
  const registers = [registry]
  const process = new Registry()
  collectDefaultMetrics({ register: process })
  const requests = new Histogram({
    name: 'activelog_http_request_duration_seconds',
    help: 'Duration of HTTP requests',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers,
  })
  const gauge = (name: string, help: string, read: (() => Promise<number> | number) | undefined): void => {
    if (!read) return
    const metric = new Gauge({ name: `activelog_${name}`, help, registers })
    reads.push(async () => metric.set(await read()))
  }
  const reads: (() => Promise<void>)[] = []
  const { outbox, handlers } = sources
  if (outbox) {
    const pending = new Gauge({ name: 'activelog_outbox_pending', help: 'Committed events that wait for the broker', registers })
    const oldest = new Gauge({ name: 'activelog_outbox_oldest_age_seconds', help: 'Age of the oldest of them', registers })
    const parked = new Gauge({ name: 'activelog_outbox_parked', help: 'Events that the broker refused', registers })
    reads.push(async () => {
      const counts = await outbox()
      pending.set(counts.pending)
      oldest.set(counts.oldestAgeMs / 1_000)
      parked.set(counts.parked)
    })
  }
  gauge('broker_lag', 'Published events that are not handled yet', sources.lag)
  gauge('dead_letters', 'Events that no attempt could handle', sources.deadLetters)
  gauge('relay_published', 'Events that this process published', sources.relayPublished)
  gauge('event_streams', 'Open streams of /events', sources.listeners)
  if (handlers) {
    const counts = new Gauge({
      name: 'activelog_handler_events',
      help: 'Events by handler and outcome',
      labelNames: ['event', 'handler', 'outcome'],
      registers,
    })
    const seconds = new Gauge({ name: 'activelog_handler_seconds_sum', help: 'Time spent in a handler', labelNames: ['event', 'handler'], registers })
    reads.push(async () => {
      for (const { event, handler, processed, failed, retried, duplicates, inFlight, latencyMs } of handlers().handlers) {
        for (const [outcome, value] of Object.entries({ processed, failed, retried, duplicates, inFlight })) counts.set({ event, handler, outcome }, value)
        seconds.set({ event, handler }, latencyMs.sum / 1_000)
      }
    })
  }
  return {
    observe: (method, route, status, seconds) => requests.observe({ method, route, status }, seconds),
    async render() {
      const answered = new AbortController()
      const late = clock.sleep(patienceMs, { signal: answered.signal }).catch(() => {})
      await Promise.race([Promise.allSettled(reads.map((read) => read())), late])
      answered.abort(enough)
      // What is the service's own stands first, where somebody who reads it looks.
      return `${await registry.metrics()}\n${await process.metrics()}`
    },
    contentType: registry.contentType,
  }
}
