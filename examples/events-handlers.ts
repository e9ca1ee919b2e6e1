import { createEventProcessor, defineEvent } from '@core-backend/events'
import { z } from 'zod'

const UserRegistered = defineEvent('user.registered', {
  version: 1,
  schema: z.object({ userId: z.string(), email: z.email() }),
  topic: 'users',
  aggregateId: (user) => user.userId,
})

// #region readme
const processor = createEventProcessor({ retry: { maxAttempts: 2, initialDelayMs: 10 } })
  .on(UserRegistered, ({ data }) => console.log(`welcome ${data.email}`), { name: 'welcome' })
  .on(UserRegistered, () => Promise.reject(new Error('CRM is down')), { name: 'crm' })
  .onRaw('legacy.*', ({ type, value }) => console.log(`${type}: ${value.length} bytes`), { name: 'archive' })

// Events as objects, and as bytes with their type.
await processor
  .processEvent(UserRegistered({ userId: 'u1', email: 'ada@example.org' }))
  .catch((error: Error) => console.log(error.message.replace(/ [\da-f-]{36}/, '')))
await processor.processRawEvent(Buffer.from('<user/>'), 'legacy.user.created')
await processor.processRawEvent(Buffer.from('{}'), 'user.renamed').catch((error: Error) => console.log(error.message.replace(/ \(.*/, '')))

for (const { event, handler, processed, retried, failed } of processor.metrics().handlers)
  console.log(`${event} ${handler}: processed ${processed}, retried ${retried}, failed ${failed}`)
// #endregion

// Prints:
// welcome ada@example.org
// Cannot handle user.registered: crm (2x: CRM is down)
// legacy.user.created: 7 bytes
// Unknown event user.renamed
// user.registered welcome: processed 1, retried 0, failed 0
// user.registered crm: processed 0, retried 1, failed 1
// legacy.* archive: processed 1, retried 0, failed 0
