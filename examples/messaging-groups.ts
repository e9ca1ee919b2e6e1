import { createBroker, memoryDriver, memoryStore, message } from '@core-backend/messaging'

// Two processes of one service are two drivers of one store; with a real broker they are two connections.
const store = memoryStore()
const one = createBroker(memoryDriver({ store, leaseMs: 200 }))
const two = createBroker(memoryDriver({ store, leaseMs: 200 }))
await one.createTopic('orders', { partitions: 4, groups: ['billing', 'shipping'] })

// #region readme
// Members of a group share its partitions; each group gets every message; a listener without a group hears what comes from now on.
const billed: string[] = []
const shipped: string[] = []
const heard: string[] = []
await one.subscribe('orders', { group: 'billing' }, (order) => void billed.push(order.id))
await two.subscribe('orders', { group: 'billing' }, (order) => void billed.push(order.id))
await two.subscribe('orders', { group: 'shipping', order: 'none', concurrency: 20 }, (order) => void shipped.push(order.id))
await one.subscribe('orders', {}, (order) => void heard.push(order.id))

const results = await one.publishBatch(
  Array.from({ length: 100 }, (_, i) =>
    message()
      .topic('orders')
      .key(`customer-${i % 10}`)
      .id(`order-${i}`)
      .json({ i })
      .build(),
  ),
)
// #endregion
console.log(results.every((result) => result.status === 'stored'))
while (billed.length < 100 || shipped.length < 100 || heard.length < 100) await new Promise((resolve) => setTimeout(resolve, 20))
console.log(new Set(billed).size, new Set(shipped).size, new Set(heard).size)
await one.close()
await two.close()

// Prints:
// true
// 100 100 100
