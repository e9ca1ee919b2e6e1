import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { getRequestListener, type Http2Bindings, type HttpBindings } from '@hono/node-server'
import { answerUnreadable, unreadableTarget } from './unreadable.ts'

/** A listening server. */
export interface HttpServer {
  /** `http://host:port`, with the port that was taken. */
  readonly url: string
  readonly port: number
  /**
   * Takes no more connections, answers what is asked on those that there are, each with its last answer, ends the rest after `drainMs` (10 s); after `graceMs`
   * (1 s) streams that are not read, whose clients come back, and connections on which nothing is asked.
   */
  close(): Promise<void>
}

interface Destroyable {
  once(event: 'close', listener: () => void): unknown
  destroy(): unknown
}

/** Rejects with a line that says why it cannot listen. */
export async function serve(
  fetch: (request: Request) => Response | Promise<Response>,
  { host, port, drainMs = 10_000, graceMs = 1_000 }: { host: string; port: number; drainMs?: number; graceMs?: number },
): Promise<HttpServer> {
  /** Open streams, and connections on which nothing was asked yet: these do not end by themselves. */
  const lasting = new Set<Destroyable>()
  const keep = (it: Destroyable): void => {
    lasting.add(it)
    it.once('close', () => lasting.delete(it))
  }
  let closing: Promise<void> | undefined
  const answer = async (request: Request, { outgoing }: HttpBindings | Http2Bindings): Promise<Response> => {
    const response = await fetch(request)
    // Its client knows then that the next request needs another connection.
    if (closing) (outgoing as ServerResponse).shouldKeepAlive = false
    if (response.headers.get('content-type')?.startsWith('text/event-stream') && !outgoing.closed) keep(outgoing)
    return response
  }
  const listener = getRequestListener(answer, { errorHandler: unreadableTarget })
  // Longer than the 60 s after which the usual load balancers drop an idle connection: dropped here first, it could take a request with it.
  const server = createServer(
    { keepAliveTimeout: 65_000, headersTimeout: 66_000, requireHostHeader: false },
    (request, response) => void listener(request, response),
  )
  server.on('connection', keep)
  server.on('request', ({ socket }: IncomingMessage) => lasting.delete(socket))
  answerUnreadable(server, fetch)
  server.listen(port, host)
  await once(server, 'listening').catch((cause: NodeJS.ErrnoException) => {
    throw new Error(`Cannot listen on ${host}:${port}: ${reasons[cause.code ?? ''] ?? cause.message}`, { cause })
  })
  const address = server.address()
  const taken = typeof address === 'object' && address ? address.port : port

  async function close(): Promise<void> {
    const closed = once(server, 'close')
    // Not the server's own `close()`, which ends idle connections at once: requests may be on their way on them.
    Server.prototype.close.call(server)
    const began = performance.now()
    let open = true
    void closed.then(() => (open = false))
    // A connection is idle only once its answer is out, and nobody says when that is.
    while (open && performance.now() < began + drainMs) {
      if (performance.now() >= began + graceMs) {
        server.closeIdleConnections()
        // Streams have been closed by their maker: what is left of them is not read, or too slowly.
        for (const it of lasting) it.destroy()
      }
      await Promise.race([closed, sleep(20)])
    }
    server.closeAllConnections()
    await closed
    server.close() // ends its timer
  }

  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${taken}`,
    port: taken,
    close: () => (closing ??= close()),
  }
}

const reasons: Record<string, string> = {
  EADDRINUSE: 'the port is in use, set PORT to another one',
  EADDRNOTAVAIL: 'this machine does not have that address, set HOST to one of its own',
  ENOTFOUND: 'no such host, set HOST to an address of this machine',
  EACCES: 'this user may not, set PORT to 1024 or above',
}
