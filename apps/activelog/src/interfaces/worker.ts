import { createEventProcessor, createWorker, type EventProcessor, type Inbox, type MessageSubscriber, type Worker } from '@core-backend/events'
import { registerHandlers } from '../application/handlers.ts'
import type { Logger, ProjectionWriter } from '../application/ports.ts'
import { registry } from '../domain/events.ts'

/** All workers, whichever process they are in, share the events of this group. */
export const group = 'activelog'

export interface ActivityWorkerOptions<Tx> {
  subscriber: MessageSubscriber
  /** Makes each handler's effect happen once. */
  inbox: Inbox<Tx>
  projections: ProjectionWriter<Tx>
  logger: Logger
  /** Events at a time; those of one activity stay in order. @default 16 */
  concurrency?: number
}

/** What follows from events: takes them from the broker to the handlers. */
export function activityWorker<Tx>({ subscriber, inbox, projections, logger, concurrency = 16 }: ActivityWorkerOptions<Tx>): {
  worker: Worker
  processor: EventProcessor<Tx>
} {
  const processor = createEventProcessor<Tx>({
    registry,
    inbox,
    // Handlers write to the database alone, so one commit does for all of an event's.
    sharedTransaction: true,
    // A database that is away for a moment must not turn events into dead letters: about five minutes of tries.
    retry: { maxAttempts: 20, initialDelayMs: 100, maxDelayMs: 30_000 },
    hooks: {
      onRetry: ({ error, ...run }) => logger.warn({ err: error, ...run }, 'A handler failed and will run again'),
      onFailed: ({ error, ...run }) => logger.error({ err: error, ...run }, 'A handler failed for good'),
      onSeparated: ({ error, ...event }) => logger.info({ err: error, ...event }, 'The handlers of an event run apart'),
      onDeadLetter: ({ error, ...letter }) => logger.error({ err: error, ...letter }, 'An event became a dead letter'),
      onProcessed: (run) => logger.debug(run, 'Handled'),
    },
  })
  registerHandlers(processor, projections)
  const worker = createWorker({ subscriber, processor, group, concurrency, subscription: { drainMs: 10_000 } })
  return { worker, processor }
}
