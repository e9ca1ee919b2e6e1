import type { Outcome } from './hooks.ts'

/** Counters of one broker object since it was made. */
export interface BrokerStats {
  /** Messages that the broker confirmed, with those of the engine itself: for later runs, dead letters, replays. */
  readonly published: number
  /** Messages handed over; later runs in place are not counted, a message that comes again is. */
  readonly delivered: number
  readonly acked: number
  readonly skipped: number
  /** Failed runs, inline and delayed, with those for which the handler asked for a retry or a dead letter. */
  readonly failed: number
  /** Sent to the group's private source for another run. */
  readonly retried: number
  readonly deadLettered: number
  /** Failed for good where there are no dead letters: without a group, or with `deadLetter: false`. */
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
