import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { opened } from './leaks.ts'

/** Where a stalled proxy holds bytes back; the other direction goes on, as on a half-open connection. */
export type Direction = 'toServer' | 'toClient' | 'both'

export interface TcpProxy {
  readonly port: number
  /** Open connections, for tests that wait for a reconnect. */
  readonly connections: number
  /** Ends every trouble made below; what was held back flows on. */
  pass(): void
  /** Each byte arrives that much later, in order. */
  delay(ms: number): void
  /** Holds bytes back on connections old and new, and tells nobody. */
  stall(direction: Direction): void
  /** Resets every open connection (RST on both sides). */
  reset(): void
  /** Resets every connection, and new ones at once, until `pass()`. */
  refuse(): void
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** A TCP proxy on 127.0.0.1 before a server, which makes the network's troubles. `target` is its port on 127.0.0.1. */
export async function tcpProxy(target: number): Promise<TcpProxy> {
  let delayMs = 0
  let stalled: Direction | undefined
  let refusing = false
  const pairs = new Set<[Socket, Socket]>()
  const pumps = new Set<() => void>()
  const flow = (): void => {
    for (const pump of pumps) pump()
  }

  /** Moves bytes one way. Beyond 64 KiB held back the sender feels it, as by a full TCP window. */
  function carry(from: Socket, to: Socket, direction: Direction): void {
    const queue: { chunk: Buffer | undefined; dueAt: number }[] = []
    let held = 0
    let timer: NodeJS.Timeout | undefined
    const pump = (): void => {
      clearTimeout(timer)
      while (queue[0] && stalled !== direction && stalled !== 'both') {
        const waitMs = queue[0].dueAt - performance.now()
        if (waitMs > 0) {
          timer = setTimeout(pump, waitMs)
          return
        }
        const { chunk } = queue.shift()!
        held -= chunk?.length ?? 0
        if (chunk) to.write(chunk)
        else to.end()
      }
      if (held < 65_536) from.resume()
    }
    const push = (chunk: Buffer | undefined): void => {
      queue.push({ chunk, dueAt: performance.now() + delayMs })
      held += chunk?.length ?? 0
      if (held >= 65_536) from.pause()
      pump()
    }
    pumps.add(pump)
    from.on('data', push)
    from.on('end', () => push(undefined))
    from.once('close', () => {
      pumps.delete(pump)
      clearTimeout(timer)
    })
  }

  const server = createServer({ allowHalfOpen: true }, (client) => {
    client.on('error', () => {})
    if (refusing) return void client.resetAndDestroy()
    const upstream = connect({ host: '127.0.0.1', port: target, allowHalfOpen: true })
    const pair: [Socket, Socket] = [client, upstream]
    pairs.add(pair)
    upstream.on('error', () => client.resetAndDestroy())
    for (const [one, other] of [pair, [upstream, client]] as const) {
      one.setNoDelay(true)
      one.once('close', (hadError) => {
        pairs.delete(pair)
        if (hadError) other.resetAndDestroy()
        else other.end()
      })
    }
    carry(client, upstream, 'toServer')
    carry(upstream, client, 'toClient')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const closed = opened(`TCP proxy to ${target}`)

  const reset = (): void => {
    for (const sockets of pairs) for (const socket of sockets) socket.resetAndDestroy()
    pairs.clear()
  }
  const close = async (): Promise<void> => {
    reset()
    if (server.listening) await new Promise((resolve) => server.close(resolve))
    closed()
  }
  return {
    port: (server.address() as { port: number }).port,
    get connections() {
      return pairs.size
    },
    pass() {
      delayMs = 0
      stalled = undefined
      refusing = false
      flow()
    },
    delay: (ms) => void (delayMs = ms),
    stall: (direction) => void (stalled = direction),
    reset,
    refuse() {
      refusing = true
      reset()
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
