import { enough } from '@core-backend/internal/abort'
import { type Clock, systemClock } from '@core-backend/internal/clock'
import type { Inbox } from '@core-backend/outbox'
import type { Logger } from '../application/ports.ts'
import { forgetOldKeys } from './activity-store.ts'
import type { Database } from './database.ts'
import { forgetOldEvents } from './event-log.ts'

export interface HousekeepingOptions {
  db: Database
  inbox: Inbox
  tenants: readonly string[]
  logger: Logger
  clock?: Clock
}

const everyMs = 3_600_000
/** Soon, for the sake of processes that do not live for an hour; those that start together begin apart. */
const firstMs = (): number => 5_000 + Math.random() * 10_000

/** Soon after the start and then once an hour: forgets request keys, events of `/events` and inbox records that are past their time. Several processes may do it. */
export function startHousekeeping({ db, inbox, tenants, logger, clock = systemClock }: HousekeepingOptions): { close(): Promise<void> } {
  const stopping = new AbortController()
  const { signal } = stopping

  async function sweep(): Promise<void> {
    try {
      await forgetOldKeys(db, tenants, signal)
      await forgetOldEvents(db, tenants, signal)
      await inbox.cleanup(db, { signal })
    } catch (error) {
      if (!signal.aborted) logger.warn({ err: error }, 'Housekeeping failed, the next round is in an hour')
    }
  }

  async function run(): Promise<void> {
    for (let waitMs = firstMs(); ; waitMs = everyMs) {
      await clock.sleep(waitMs, { signal, background: true }).catch(() => {})
      if (signal.aborted) return
      await sweep()
    }
  }

  const running = run()
  return {
    async close() {
      stopping.abort(enough)
      await running
    },
  }
}
