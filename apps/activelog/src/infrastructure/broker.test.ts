import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokerError, openBroker } from './broker.ts'

const logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

test('a broker that cannot be used is told by its variable and address, without what is secret', async () => {
  for (const [url, told] of [
    ['postgres://user:secret@127.0.0.1:1/x?schema=secret', /^Cannot use the broker of BROKER_URL postgres:\/\/127\.0\.0\.1:1\/x: .*ECONNREFUSED/],
    ['postgres://127.0.0.1:1/x?colour=red', /^Cannot use the broker of BROKER_URL postgres:\/\/127\.0\.0\.1:1\/x: Unknown parameter colour/],
    ['postgres://localhost:1', /^Cannot use the broker of BROKER_URL postgres:\/\/localhost:1: .*ECONNREFUSED/],
  ] as const)
    await assert.rejects(
      openBroker({ url, database: undefined as never, listenUrl: undefined, topic: 'activities', group: 'activelog', logger }),
      (error: Error & { code?: string }) => {
        assert.match(error.message, told)
        assert.doesNotMatch(error.message, /secret/)
        assert.equal(error.code, 'ERR_ACTIVELOG_BROKER')
        return true
      },
    )
})

test('a broker that says nothing is told as that, and may be tried again, unlike a URL that is wrong', () => {
  const silent = new BrokerError('postgres://h/x', new DOMException('The operation was aborted due to timeout', 'TimeoutError'))
  assert.deepEqual([silent.message, silent.retryable], ['Cannot use the broker of BROKER_URL postgres://h/x: it does not answer', true])
  assert.equal(new BrokerError('postgres://h/x', new RangeError('Unknown parameter')).retryable, false)
})
