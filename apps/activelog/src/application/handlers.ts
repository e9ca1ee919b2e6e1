import type { EventHandlerFunction, EventSubscriber } from '@core-backend/events'
import { badgesOf } from '../domain/badges.ts'
import { ActivityCreated, ActivityDeleted, ActivityUpdated, type AnyActivityEvent } from '../domain/events.ts'
import type { ProjectionWriter } from './ports.ts'

/** Each runs until it succeeds, apart from the others; an event is handled when all are done. */
export const handlerNames = ['statistics', 'badges', 'audit'] as const

type Handler<Tx> = EventHandlerFunction<AnyActivityEvent, Tx>

/** Registers what follows from an activity's change. Effects happen once: each runs in the transaction that records that it has run. */
export function registerHandlers<Tx>(events: EventSubscriber<Tx>, projections: ProjectionWriter<Tx>): void {
  const handlers: Record<(typeof handlerNames)[number], Handler<Tx>> = {
    statistics: (event, { tx }) => projections.count(tx, tenantOf(event), event.data, event.name === 'activity.deleted'),

    badges: (event, { tx }) => projections.award(tx, tenantOf(event), event.data, event.name === 'activity.deleted' ? [] : badgesOf(event.data)),

    audit: (event, { tx }) =>
      projections.record(tx, tenantOf(event), {
        eventId: event.id,
        event: event.name,
        activity: event.data,
        occurredAt: event.occurredAt,
        requestId: event.correlationId,
        traceId: event.traceparent?.split('-')[1],
      }),
  }
  for (const name of handlerNames) {
    events.on(ActivityCreated, handlers[name], { name })
    events.on(ActivityUpdated, handlers[name], { name })
    events.on(ActivityDeleted, handlers[name], { name })
  }
}

function tenantOf({ name, id, tenantId }: AnyActivityEvent): string {
  if (tenantId === undefined) throw Object.assign(new Error(`${name} ${id} has no tenant`), { code: 'ERR_ACTIVELOG_NO_TENANT', retryable: false })
  return tenantId
}
