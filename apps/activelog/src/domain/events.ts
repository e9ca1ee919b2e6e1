import { createEventRegistry, defineEvent, type EventDefinition, type EventRegistry } from '@core-backend/events'
import { type Activity, activitySchema } from './activity.ts'

/** Each event carries the whole activity as it then was, so that a handler needs no other event to understand it. */
type ActivityEvent<Name extends string> = EventDefinition<Name, Activity, Activity>

/** The stream of all activities; events of one activity keep their order. */
export const topic = 'activities'

const options = { version: 1, schema: activitySchema, topic, key: (activity: Activity): string => activity.id }

export const ActivityCreated: ActivityEvent<'activity.created'> = defineEvent('activity.created', options)
export const ActivityUpdated: ActivityEvent<'activity.updated'> = defineEvent('activity.updated', options)
/** With the activity's last state, and one version above it. */
export const ActivityDeleted: ActivityEvent<'activity.deleted'> = defineEvent('activity.deleted', options)

export type AnyActivityEvent = ReturnType<typeof ActivityCreated> | ReturnType<typeof ActivityUpdated> | ReturnType<typeof ActivityDeleted>

export const registry: EventRegistry<ActivityEvent<string>> = createEventRegistry<ActivityEvent<string>>([ActivityCreated, ActivityUpdated, ActivityDeleted])
