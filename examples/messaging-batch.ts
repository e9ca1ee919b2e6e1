import { createBroker, json, memoryDriver } from '@core-backend/messaging'

const broker = createBroker(memoryDriver())

// #region readme
// Result i belongs to message i. One that fails takes along only the later ones of its key, so that they cannot overtake it.
const results = await broker.publishBatch([
  { topic: 'orders', id: 'a1', key: 'ada', value: json().encode({ total: 10 }) },
  { topic: 'orders', id: 'b1', key: 'bob', value: new Uint8Array(2_000_000) },
  { topic: 'orders', id: 'b2', key: 'bob', value: json().encode({ total: 20 }) },
])

for (const result of results) {
  if (result.status === 'stored') console.log(result.id, 'stored')
  else console.log(result.id, result.status, result.error.code, result.error.retryable ? 'publish it again' : 'mend it first')
}
// #endregion
await broker.close()

// Prints:
// a1 stored
// b1 rejected ERR_MESSAGING_TOO_LARGE mend it first
// b2 rejected ERR_MESSAGING_PUBLISH publish it again
