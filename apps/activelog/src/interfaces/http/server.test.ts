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
  assert.equal(await (await answer).text(), 'here')
  await closed
})
