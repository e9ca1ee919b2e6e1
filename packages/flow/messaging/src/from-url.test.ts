import assert from 'node:assert/strict'
import { test } from 'node:test'
import { brokerFromUrl, parseBrokerUrl } from './from-url.ts'

test('a broker URL is taken apart, lists of hosts and percent-encoded parts included', () => {
  assert.deepEqual(parseBrokerUrl('kafka://me:a%2Fb%40c@one:9092,[::1]:9093/my%20topic?ssl=true'), {
    scheme: 'kafka',
    user: 'me',
    password: 'a/b@c',
    hosts: [
      { host: 'one', port: 9092 },
      { host: '::1', port: 9093 },
    ],
    path: 'my topic',
    params: { ssl: 'true' },
  })
  assert.deepEqual(parseBrokerUrl('memory:'), { scheme: 'memory', user: undefined, password: undefined, hosts: [], path: '', params: {} })
})

test('no error shows any of the password, whatever it is made of, and each says how to write it', async () => {
  for (const password of ['hun/ter', 'hun?ter', 'hun#ter', 'hun@ter', '12/ter', '12?ter', '/ter', 'hun:/ter', 'hun@x/ter', 'hun%zzter', 'hun\nter@x'])
    for (const end of ['@127.0.0.1:5432/postgres', '@h', '@h:99999/db?max=5'])
      await assert.rejects(brokerFromUrl(`postgres://postgres:${password}${end}`), (error: Error) => {
        assert.ok(error instanceof RangeError)
        assert.doesNotMatch(error.message, /hun|ter|12\b|zz/, password)
        assert.match(error.message, /^Bad broker URL "postgres:\/\/\*\*\*@.* percent-encode/)
        return true
      })
  for (const url of ['postgres://postgres:hunter', 'postgres://h/db?password=hunter&x', 'postgres://h:hunter/db', 'hunter2'])
    await assert.rejects(brokerFromUrl(url), (error: Error) => error instanceof RangeError && !error.message.includes('hunter'))
})

test('a pool of a size that is no number is refused', async () => {
  for (const max of ['abc', '0', '1.5', '-1', ''])
    await assert.rejects(brokerFromUrl(`postgres://me:secret@127.0.0.1:1/x?max=${max}`), {
      name: 'RangeError',
      message: `max in a postgres URL must be an integer of at least 1, got ${JSON.stringify(max)}`,
    })
})

test('a parameter that does nothing is refused', async () => {
  await assert.rejects(brokerFromUrl('memory:?x=1'), { name: 'RangeError', message: 'Unknown parameter x in a memory URL; there are none' })
  await assert.rejects(brokerFromUrl('postgres://h/d?x=1'), {
    name: 'RangeError',
    message: 'Unknown parameter x in a postgres URL; there are host, schema, ssl, max',
  })
})

test('what is no URL is told which ones there are', async () => {
  for (const url of ['hello', '', 'amqp', '//h/db'])
    await assert.rejects(brokerFromUrl(url), (error: Error) => error.message.endsWith('; there are memory:, postgres://, postgresql://'))
})
