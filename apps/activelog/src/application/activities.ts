import { hash } from 'node:crypto'
import type { Correlation } from '@core-backend/events'
import { type Activity, changedActivity, deletedActivity, newActivity } from '../domain/activity.ts'
import { ActivityCreated, ActivityDeleted, ActivityUpdated } from '../domain/events.ts'
import { activityNotFound, RefusalError } from './errors.ts'
import type { ActivityFilter, ActivityStore } from './ports.ts'

/** Who asks: the tenant, and what its events carry on. */
export type Caller = Correlation & { readonly tenantId: string }

export interface Posted {
  readonly activity: Activity
  /** The request had been answered before; this is the same answer. */
  readonly repeated: boolean
}

export interface ActivityUseCases {
  /** Throws `InvalidActivityError`, {@link RefusalError}. With a key it may be repeated until answered. */
  post(caller: Caller, input: unknown, key?: string): Promise<Posted>
  get(caller: Caller, id: string): Promise<Activity>
  list(caller: Caller, filter: ActivityFilter): Promise<readonly Activity[]>
  patch(caller: Caller, id: string, input: unknown): Promise<Activity>
  delete(caller: Caller, id: string): Promise<void>
}

export interface ActivityDependencies {
  store: ActivityStore
  newId: () => string
  now: () => Date
  /** Told after each commit that wrote an event. */
  onCommit?: (() => void) | undefined
}

class KeyTaken extends Error {}

export function activityUseCases({ store, newId, now, onCommit = () => {} }: ActivityDependencies): ActivityUseCases {
  /** The answer to an earlier request under the key, which must have asked for the same. */
  async function repeat(tenant: string, key: string, fingerprint: string): Promise<Posted> {
    const earlier = await store.answered(tenant, key)
    if (!earlier) throw new RefusalError('ERR_ACTIVELOG_KEY_BUSY', 'The first request with this Idempotency-Key is still running')
    if (earlier.fingerprint !== fingerprint) throw new RefusalError('ERR_ACTIVELOG_KEY_REUSED', 'This Idempotency-Key was used for a request with another body')
    return { activity: earlier.activity, repeated: true }
  }

  return {
    async post(caller, input, key) {
      const activity = newActivity(input, { id: newId(), now: now() })
      const request = key === undefined ? undefined : { key, fingerprint: fingerprintOf(activity) }
      const created = ActivityCreated(activity, caller)
      try {
        await store.transaction(caller.tenantId, async ({ add, events }) => {
          // Both travel together; a key that is taken undoes both.
          const [added] = await Promise.all([add(activity, request), events.publish(created)])
          if (!added) throw new KeyTaken()
        })
      } catch (error) {
        if (!(error instanceof KeyTaken) || !request) throw error
        return repeat(caller.tenantId, request.key, request.fingerprint)
      }
      onCommit()
      return { activity, repeated: false }
    },

    async get({ tenantId }, id) {
      const activity = await store.find(tenantId, id)
      if (!activity) throw activityNotFound(id)
      return activity
    },

    list: ({ tenantId }, filter) => store.list(tenantId, filter),

    async patch(caller, id, input) {
      const changed = await store.transaction(caller.tenantId, async ({ lock, replace, events }) => {
        const activity = await lock(id)
        if (!activity) throw activityNotFound(id)
        const changed = changedActivity(activity, input, now())
        await Promise.all([replace(changed), events.publish(ActivityUpdated(changed, caller))])
        return changed
      })
      onCommit()
      return changed
    },

    async delete(caller, id) {
      await store.transaction(caller.tenantId, async ({ lock, remove, events }) => {
        const activity = await lock(id)
        if (!activity) throw activityNotFound(id)
        const deleted = deletedActivity(activity, now())
        await Promise.all([remove(deleted), events.publish(ActivityDeleted(deleted, caller))])
      })
      onCommit()
    },
  }
}

/** Of what was asked for, in one order of fields whatever the client's. */
function fingerprintOf({ id: _, createdAt: __, updatedAt: ___, version: ____, ...asked }: Activity): string {
  return hash('sha256', JSON.stringify(asked), 'base64')
}
