import type { Inbox } from '@core-backend/outbox'
import type { Logger } from '../application/ports.ts'
import { forgetOldKeys } from './activity-store.ts'
import type { Database } from './database.ts'
import { forgetOldEvents } from './event-log.ts'

const everyMs = 3_600_000

/** Once an hour: forgets request keys, events of `/events` and inbox records that are past their time. Several processes may do it. */
export function startHousekeeping({ db, inbox, tenants, logger }: { db: Database; inbox: Inbox; tenants: readonly string[]; logger: Logger }): {
  close(): Promise<void>
} {
  const stopping = new AbortController()
  let running = Promise.resolve()
  const sweep = async (): Promise<void> => {
    try {
      await forgetOldKeys(db, tenants)
      await forgetOldEvents(db, tenants)
      await inbox.cleanup(db, { signal: stopping.signal })
    } catch (error) {
      if (!stopping.signal.aborted) logger.warn({ err: error }, 'Housekeeping failed, the next round is in an hour')
    }
  }
  const timer = setInterval(() => void (running = sweep()), everyMs).unref()
  return {
    async close() {
      stopping.abort()
      clearInterval(timer)
      await running
    },
  }
}
