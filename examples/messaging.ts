// #region readme
import { createBroker, json, memoryDriver, message } from '@core-backend/messaging'
import { z } from 'zod'

const onError = ({ error }: { error: unknown }) => console.log((error as Error).message) // your log
const broker = createBroker(memoryDriver(), { hooks: { onError } }) // the same code on every driver
const User = json(z.object({ name: z.string() }))

// The group `mail` gets every message; its members, in this process and in others, share them. A key's messages stay in sequence.
const subscription = await broker.subscribe(
  'user-events',
  { group: 'mail', concurrency: 10, codec: User, retry: { initialDelayMs: 10 } },
  async (event, ctx) => {
    if (event.body.name === 'Bob' && ctx.attempt === 1) throw new Error('The mail server is down') // tried again, those behind it wait
    console.log(`${event.headers['event_type']} ${event.key} ${event.body.name}, attempt ${ctx.attempt}`)
  },
)

// Resolves when the broker has stored it.
for (const name of ['Ada', 'Bob', 'Eve'])
  await broker.publish(message().topic('user-events').key('user-123').json({ name }).header('event_type', 'user.created').build())

while ((await broker.lag('user-events', 'mail')).messages > 0) await new Promise((resolve) => setTimeout(resolve, 20))
await broker.close()
// #endregion
console.log(subscription.stats().running, broker.stats().acked)

// Prints:
// user.created user-123 Ada, attempt 1
// The mail server is down
// user.created user-123 Bob, attempt 2
// user.created user-123 Eve, attempt 1
// 0 3
