/** Upper bounds, ms; a last bucket takes the rest. */
const bounds = [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, Infinity] as const

/** The counters of one handler of one event, since it was registered. */
export interface HandlerMetrics {
  /** The event's name, or the raw handler's pattern. */
  readonly event: string
  readonly handler: string
  /** Deliveries that it succeeded on. */
  readonly processed: number
  /** Deliveries that it failed on for good. */
  readonly failed: number
  /** Runs after a failed one. */
  readonly retried: number
  /** Deliveries that the inbox knew already, or the header `events-done` said to be done; not among `processed`. */
  readonly duplicates: number
  /** Deliveries that it is at work on, waits between attempts included. */
  readonly inFlight: number
  /** Runs that outlived their timeout and its grace, and are still going. */
  readonly stuck: number
  /** How long each run took, failed ones included, waits between them not. Buckets are cumulative, as Prometheus has them. */
  readonly latencyMs: { readonly count: number; readonly sum: number; readonly buckets: readonly { readonly le: number; readonly count: number }[] }
}

/** A handler's counters as the processor writes them. */
export interface Meter {
  processed: number
  failed: number
  retried: number
  duplicates: number
  inFlight: number
  stuck: number
  observe(durationMs: number): void
  read(event: string, handler: string): HandlerMetrics
}

export function createMeter(): Meter {
  const counts = new Float64Array(bounds.length)
  let sum = 0
  return {
    processed: 0,
    failed: 0,
    retried: 0,
    duplicates: 0,
    inFlight: 0,
    stuck: 0,
    observe(durationMs) {
      let i = 0
      while (durationMs > bounds[i]!) i++
      counts[i]!++
      sum += durationMs
    },
    read(event, handler) {
      const { processed, failed, retried, duplicates, inFlight, stuck } = this
      let count = 0
      const buckets = bounds.map((le, i) => ({ le, count: (count += counts[i]!) }))
      return { event, handler, processed, failed, retried, duplicates, inFlight, stuck, latencyMs: { count, sum, buckets } }
    },
  }
}
