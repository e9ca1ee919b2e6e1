// #region readme
import { setTimeout as sleep } from 'node:timers/promises'
import { createEventProcessor, defineEvent, eventPublisher, type OutgoingMessage } from '@core-backend/events'
import { z } from 'zod'

// What happened: named, versioned, validated when it is made and when it is read.
const ActivityCreated = defineEvent('activity.created', {
  version: 1,
  schema: z.object({ id: z.string(), userId: z.number(), minutes: z.number().positive() }),
  topic: 'activities',
  aggregateId: (activity) => activity.id,
})

// Who acts on it: each handler until it succeeds, and none again because another failed.
let outages = 1
const processor = createEventProcessor({ retry: { maxAttempts: 3, initialDelayMs: 10 } })
  .on(ActivityCreated, (event) => console.log(`stats: user ${event.data.userId} moved ${event.data.minutes} minutes`), { name: 'stats' })
  .on(
    ActivityCreated,
    async (event, ctx) => {
      await sleep(1, undefined, { signal: ctx.signal })
      if (outages-- > 0) throw new Error('The mail server is down')
      console.log(`mail: sent for ${event.aggregateId}, attempt ${ctx.attempt}`)
    },
    { name: 'mail', timeoutMs: 5_000 },
  )

// Where it goes: a broker, an outbox in a transaction, a spy; here straight to the processor, as a subscription would hand it over.
const deliver = (message: OutgoingMessage) => processor.processMessage({ id: '', key: undefined, headers: {}, timestamp: 0, idStable: true, ...message })
const publisher = eventPublisher({ publish: deliver })

await publisher.publish(ActivityCreated({ id: 'a1', userId: 7, minutes: 30 }, { tenantId: 'acme' }))
// #endregion

try {
  ActivityCreated({ id: 'a2', userId: 7, minutes: -5 })
} catch (error) {
  console.log((error as Error).message)
}

// Prints:
// stats: user 7 moved 30 minutes
// mail: sent for a1, attempt 2
// activity.created version 1 is invalid: minutes: Too small: expected number to be >0
