import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { test } from 'node:test'
import { tcpProxy, type TcpProxy } from './tcp-proxy.ts'
import { waitUntil } from './wait-until.ts'

interface Line {
  client: Socket
  proxy: TcpProxy
  /** What came back to the client, and what reached the server. */
  echoed: () => string
  arrived: () => string
}

/** A client, the proxy and a server that sends everything back. */
async function withLine(fn: (line: Line) => Promise<void>): Promise<void> {
  let arrived = ''
  let echoed = ''
  const server = createServer((socket) => {
    socket
      .on('error', () => {})
      .on('data', (chunk: Buffer) => {
        arrived += chunk.toString()
        socket.write(chunk)
      })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const proxy = await tcpProxy((server.address() as { port: number }).port)
  const client = connect(proxy.port, '127.0.0.1')
  client.on('error', () => {}).on('data', (chunk: Buffer) => (echoed += chunk.toString()))
  try {
    await fn({ client, proxy, echoed: () => echoed, arrived: () => arrived })
  } finally {
    client.destroy()
    await proxy.close()
    server.close()
    await once(server, 'close')
  }
}

test('bytes pass in both directions, late and in order when delayed', () =>
  withLine(async ({ client, proxy, echoed }) => {
    client.write('a')
    await waitUntil(() => echoed() === 'a')
    proxy.delay(20)
    client.write('b')
    proxy.delay(0)
    client.write('c')
    await waitUntil(() => echoed() === 'abc')
  }))

test('a stall towards the client lets the request through and holds the answer until it passes again', () =>
  withLine(async ({ client, proxy, echoed, arrived }) => {
    proxy.stall('toClient')
    client.write('x')
    await waitUntil(() => arrived() === 'x')
    assert.equal(echoed(), '')
    proxy.pass()
    await waitUntil(() => echoed() === 'x')
  }))

test('a stall towards the server holds the request', () =>
  withLine(async ({ client, proxy, echoed, arrived }) => {
    client.write('1')
    await waitUntil(() => echoed() === '1')
    proxy.stall('toServer')
    await new Promise<void>((resolve) => client.write('2', () => resolve()))
    assert.equal(arrived(), '1')
    proxy.pass()
    await waitUntil(() => echoed() === '12')
  }))

test('a reset ends open connections with ECONNRESET and takes new ones; refusing resets those too until it passes', () =>
  withLine(async ({ client, proxy, echoed }) => {
    client.write('a')
    await waitUntil(() => echoed() === 'a' && proxy.connections === 1)
    proxy.reset()
    const [error] = (await once(client, 'error')) as [NodeJS.ErrnoException]
    assert.equal(error.code, 'ECONNRESET')
    proxy.refuse()
    const refused = connect(proxy.port, '127.0.0.1')
    await new Promise((resolve) => refused.on('error', () => {}).once('close', resolve))
    proxy.pass()
    const again = connect(proxy.port, '127.0.0.1')
    again.write('b')
    assert.equal(String((await once(again, 'data'))[0]), 'b')
    again.destroy()
  }))
