import type { Outcome } from './hooks.ts'

/** Counters of one broker object since it was made. */
export interface BrokerStats {
  readonly published: number
  readonly delivered: number
  readonly acked: number
  readonly skipped: number
  /** Failed runs, inline and delayed. */
  readonly failed: number
  /** Sent to the group's private source for another run. */
  readonly retried: number
  readonly deadLettered: number
  readonly dropped: number
  readonly running: number
  readonly buffered: number
  readonly stuck: number
  readonly subscriptions: number
}

/** The mutable side, shared by the subscriptions of a broker. */
export class Stats {
  delivered = 0
  failed = 0
  stuck = 0
  readonly outcomes: Record<Outcome, number> = { acked: 0, skipped: 0, retried: 0, 'dead-lettered': 0, dropped: 0 }

  count(outcome: Outcome): void {
    this.outcomes[outcome]++
  }
}
