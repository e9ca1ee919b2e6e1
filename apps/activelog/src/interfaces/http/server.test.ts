import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { serve } from './server.ts'

const never = 2 ** 30

test('the end does not wait for who does not read a stream', async (t) => {
  const big = new Uint8Array(2 ** 20)
  let pulls = 0
  let end = (): void => {}
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => void (end = () => controller.close()),
    pull: (controller) => (pulls++, controller.enqueue(big)),
  })
  const server = await serve(() => new Response(body, { headers: { 'content-type': 'text/event-stream; charset=utf-8' } }), {
    host: '127.0.0.1',
    port: 0,
    drainMs: never,
    graceMs: 10,
  })
  const client = connect(server.port, '127.0.0.1').on('error', () => {})
  t.after(() => client.destroy())
  client.write('GET /events HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(client, 'readable') // the headers are there, and nothing is read
  let seen = -1
  await waitUntil(() => pulls === seen || void (seen = pulls), { everyMs: 50, what: 'full buffers' })
  end()
  await server.close()
})

test('the end does not wait for connections on which nothing was asked, as browsers open them ahead', async (t) => {
  const server = await serve(() => new Response('here'), { host: '127.0.0.1', port: 0, drainMs: never, graceMs: 10 })
  const client = connect(server.port, '127.0.0.1').on('error', () => {})
  t.after(() => client.destroy())
  await once(client, 'connect')
  await (await fetch(server.url)).text() // the server has seen both
  await server.close()
})

test('the end waits for a slow answer', async () => {
  const asked = Promise.withResolvers<void>()
  const go = Promise.withResolvers<void>()
  const server = await serve(
    async () => {
      asked.resolve()
      await go.promise
      return new Response('here')
    },
    { host: '127.0.0.1', port: 0, drainMs: never, graceMs: 0 },
  )
  const answer = fetch(server.url)
  await asked.promise
  const closed = server.close()
  go.resolve()
  assert.equal((await answer).headers.get('connection'), 'close')
  assert.equal(await (await answer).text(), 'here')
  await closed
})

test('a request that comes on a kept connection after the end began is answered, and ends the connection', async (t) => {
  const server = await serve(() => new Response('here'), { host: '127.0.0.1', port: 0, drainMs: never, graceMs: never })
  const client = connect(server.port, '127.0.0.1').setEncoding('latin1')
  t.after(() => client.destroy())
  let got = ''
  client.on('data', (text: string) => void (got += text))
  const request = 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'
  client.write(request)
  await waitUntil(() => got.endsWith('here'))
  assert.match(got, /\r\nConnection: keep-alive\r\n/i)
  const closed = server.close()
  got = ''
  client.write(request)
  await once(client, 'end')
  assert.match(got, /^HTTP\/1.1 200 OK\r\n[^]*\r\nConnection: close\r\n[^]*here$/i)
  await closed
})

test('the end does not wait for kept connections on which nothing more is asked', async (t) => {
  const server = await serve(() => new Response('here'), { host: '127.0.0.1', port: 0, drainMs: never, graceMs: 10 })
  const client = connect(server.port, '127.0.0.1').on('error', () => {})
  t.after(() => client.destroy())
  client.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await once(client, 'data')
  await server.close()
})
