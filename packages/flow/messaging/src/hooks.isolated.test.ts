import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { createBroker } from './broker.ts'
import { memoryDriver } from './memory.ts'

test('a failing handler is not silent by default: the first one of a process is a warning, and whoever has the hook hears of all', async () => {
  const warnings: string[] = []
  process.on('warning', ({ name, message }) => warnings.push(`${name}: ${message}`))
  const heard: string[] = []
  const handler = ({ id }: { id: string }): never => {
    throw new TypeError(`cannot read ${id}`)
  }
  for (const hooks of [{ onError: ({ error }: { error: unknown }) => void heard.push((error as Error).message) }, {}, {}]) {
    const broker = createBroker(memoryDriver(), { hooks })
    await broker.subscribe('orders', { group: 'g', retry: { maxAttempts: 1 } }, handler)
    for (const id of ['a', 'b']) await broker.publish({ topic: 'orders', value: new Uint8Array(), id })
    await waitUntil(async () => (await broker.deadLetters('orders', 'g').count()) === 2)
    await broker.close()
  }
  await sleep(0)
  assert.deepEqual(heard.toSorted(), ['cannot read a', 'cannot read b'])
  assert.match(
    warnings.join('; '),
    /^MessagingWarning: A handler of orders \(group g\) failed: TypeError: cannot read [ab]\. This is told once: hooks\.onError hears of all$/,
  )
})
