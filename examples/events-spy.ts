import assert from 'node:assert/strict'
import { defineEvent, type EventPublisher } from '@core-backend/events'
import { expectPublished, spyPublisher } from '@core-backend/events/testing'
import { z } from 'zod'

const OrderPlaced = defineEvent('order.placed', {
  version: 1,
  schema: z.object({ orderId: z.string(), customer: z.object({ id: z.string(), country: z.string() }), total: z.number() }),
  topic: 'orders',
  aggregateId: (order) => order.orderId,
})

// #region readme
// A use case knows the port, not what lies behind it.
const placeOrder =
  (publisher: EventPublisher) =>
  async (orderId: string, prices: readonly number[]): Promise<void> => {
    const total = prices.reduce((sum, price) => sum + price, 0)
    await publisher.publish(OrderPlaced({ orderId, customer: { id: 'c1', country: 'NL' }, total }))
  }

// Its test: one event, of the right type, with the right fields.
const spy = spyPublisher()
await placeOrder(spy)('o1', [10, 32])
assert.equal(spy.events.length, 1)
const event = expectPublished(spy, OrderPlaced, { total: 42, customer: { country: 'NL' } })
console.log(event.name, event.aggregateId, event.data.total)
// #endregion

try {
  expectPublished(spy, OrderPlaced, { total: 43 })
} catch (error) {
  console.log((error as Error).message)
}

// Prints:
// order.placed o1 42
// Expected order.placed with { total: 43 }; published: [
//   {
//     name: 'order.placed',
//     data: { orderId: 'o1', customer: { id: 'c1', country: 'NL' }, total: 42 }
//   }
// ]
