import type { Activity, ActivityType } from '../domain/activity.ts'
import type { Badge } from '../domain/badges.ts'
import type { AnyActivityEvent } from '../domain/events.ts'
import type { DaySum } from '../domain/statistics.ts'

/** A `POST` that may be repeated until it is answered. */
export interface RepeatableRequest {
  readonly key: string
  /** Tells whether a repetition asks for the same. */
  readonly fingerprint: string
}

export interface ActivityFilter {
  readonly userId?: number | undefined
  readonly type?: ActivityType | undefined
  /** Days, both included. */
  readonly from?: string | undefined
  readonly to?: string | undefined
  /** Only activities older than this one. */
  readonly before?: string | undefined
  readonly limit: number
}

/** What one transaction on one tenant's data can do. Everything of it commits together, events included. */
export interface Unit {
  /** False when the request's key is taken: the unit must then be given up. */
  add(activity: Activity, request: RepeatableRequest | undefined): Promise<boolean>
  /** As it is, unchanged by others until the unit ends. */
  lock(id: string): Promise<Activity | undefined>
  replace(activity: Activity): Promise<void>
  remove(activity: Activity): Promise<void>
  readonly events: { publish(event: AnyActivityEvent): Promise<void> }
}

/** The activities of all tenants; every call names the one whose data it may touch. */
export interface ActivityStore {
  /** Commits when `fn` resolves, undoes everything when it throws. */
  transaction<T>(tenant: string, fn: (unit: Unit) => Promise<T>): Promise<T>
  find(tenant: string, id: string): Promise<Activity | undefined>
  /** Newest first. */
  list(tenant: string, filter: ActivityFilter): Promise<readonly Activity[]>
  /** What was answered to a repeatable request in the last 24 hours. */
  answered(tenant: string, key: string): Promise<{ readonly fingerprint: string; readonly activity: Activity } | undefined>
}

/** What is read from what the handlers keep. */
export interface ProjectionReader {
  daySums(tenant: string, userId: number): Promise<readonly DaySum[]>
  badges(tenant: string, userId: number): Promise<readonly { readonly badge: Badge; readonly times: number; readonly lastEarned: string }[]>
}

/** A place in the order of a tenant's events: that of their transactions, and in one transaction that of their ids. */
export interface Position {
  readonly txid: string
  readonly id: string
}

/** An event that is committed. */
export interface LoggedEvent extends Position {
  readonly name: string
  readonly activity: Activity
}

/** The events of each tenant in an order that stays: nothing ever comes before what was read. */
export interface EventLog {
  /** Behind the event with that id; behind all that there are without one; before all that are kept when it is not known. */
  position(tenant: string, id: string | undefined): Promise<Position>
  /** What comes next: `limit` events at most, and none after the one with which they have `limitBytes`. */
  after(tenant: string, position: Position, limit: number, limitBytes: number): Promise<readonly LoggedEvent[]>
}

/** One line of the audit trail. */
export interface AuditLine {
  readonly eventId: string
  readonly event: string
  readonly activity: Activity
  readonly occurredAt: Date
  /** Of the request that caused it. */
  readonly requestId: string | undefined
  readonly traceId: string | undefined
}

/** What the handlers write, in the transaction that also records that they are done. `activity.version` decides what is newer. */
export interface ProjectionWriter<Tx> {
  /** Takes the activity into its user's sums, in place of its older version; a deleted one goes out of them. */
  count(tx: Tx, tenant: string, activity: Activity, deleted: boolean): Promise<void>
  award(tx: Tx, tenant: string, activity: Activity, badges: readonly Badge[]): Promise<void>
  record(tx: Tx, tenant: string, line: AuditLine): Promise<void>
}

export type Logger = Record<'debug' | 'info' | 'warn' | 'error', (fields: object, text: string) => void>
