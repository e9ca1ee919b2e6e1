import { createEventProcessor, defineEvent } from '@core-backend/events'
import { z } from 'zod'

// #region readme
// Version 2 counts in minutes. What was written in hours stays readable, and handlers never see it.
const ActivityCreated = defineEvent('activity.created', {
  version: 2,
  schema: z.object({ id: z.string(), durationMinutes: z.number() }),
  topic: 'activities',
  aggregateId: (activity) => activity.id,
}).upcast(1, z.object({ id: z.string(), hours: z.number() }), (old) => ({ id: old.id, durationMinutes: old.hours * 60 }))
// #endregion

const processor = createEventProcessor().on(ActivityCreated, ({ version, data }) => console.log(version, data), { name: 'print' })
const bytes = (data: unknown): Uint8Array => Buffer.from(JSON.stringify(data))

await processor.processRawEvent(bytes({ id: 'old', hours: 1.5 }), 'activity.created', { version: 1 })
await processor.processRawEvent(bytes({ id: 'new', durationMinutes: 20 }), 'activity.created', { version: 2 })
await processor.processRawEvent(bytes({ id: 'future', seconds: 9 }), 'activity.created', { version: 3 }).catch((error: Error) => console.log(error.message))

// Prints:
// 2 { id: 'old', durationMinutes: 90 }
// 2 { id: 'new', durationMinutes: 20 }
// activity.created has version 3, newer than 2: update this service, then replay the dead letter
