import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { openDatabase } from '@core-backend/testkit/postgres'
import { tcpProxy } from '@core-backend/testkit/tcp-proxy'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { listenOn } from './listen.ts'

test('a session that is lost is replaced by one, however often that fails, and none is left at the end', async (t) => {
  const database = await openDatabase('pg18')
  const open = new Set<Socket>()
  let refusals = 0
  const server = createServer((socket) => {
    socket.on('error', () => {})
    if (refusals-- > 0) return void socket.destroy()
    open.add(socket.once('close', () => open.delete(socket)))
    const upstream = connect(Number(new URL(database.url!).port), '127.0.0.1').on('error', () => {})
    socket.pipe(upstream).pipe(socket)
    socket.once('close', () => upstream.destroy())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    for (const socket of open) socket.destroy()
    server.close()
    await database.close()
  })

  let wakes = 0
  const { port } = server.address() as { port: number }
  const url = Object.assign(new URL(database.url!), { port: String(port) }).href
  const unlisten = await listenOn(url)('news', () => wakes++)
  refusals = 3
  for (const socket of open) socket.destroy()
  await waitUntil(() => wakes === 2, { what: 'the new session' })
  await database.client.query('NOTIFY news')
  await waitUntil(() => wakes > 2, { what: 'the notification' })
  assert.ok(refusals < 0)
  await unlisten()
  await waitUntil(() => open.size === 0, { what: 'no session left' })
})

test('a server that goes silent holds up neither the end nor, beyond its patience, the beginning', async (t) => {
  const database = await openDatabase('pg18')
  const proxy = await tcpProxy(Number(new URL(database.url!).port))
  t.after(async () => {
    await proxy.close()
    await database.close()
  })
  const listen = listenOn(Object.assign(new URL(database.url!), { port: String(proxy.port) }).href, 500)
  const unlisten = await listen('news', () => {})
  proxy.stall('both')
  await unlisten()
  proxy.pass()

  const replaced = await listen('news', () => {})
  proxy.reset()
  await waitUntil(() => proxy.connections === 1, { what: 'the session that replaces it' })
  proxy.stall('both')
  await replaced()
  await assert.rejects(
    listen('news', () => {}),
    /timeout/,
  )
})
