import { once } from 'node:events'
import { createServer } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { getRequestListener, type Http2Bindings, type HttpBindings } from '@hono/node-server'
import { answerUnreadable, unreadableTarget } from './unreadable.ts'

/** A listening server. */
export interface HttpServer {
  /** `http://host:port`, with the port that was taken. */
  readonly url: string
  readonly port: number
  /** Takes no more connections, answers what was asked, ends the rest after `drainMs` (10 s); event streams, whose clients come back, after `streamMs` (1 s). */
  close(): Promise<void>
}

/** Rejects with a line that says why it cannot listen. */
export async function serve(
  fetch: (request: Request) => Response | Promise<Response>,
  { host, port, drainMs = 10_000, streamMs = 1_000 }: { host: string; port: number; drainMs?: number; streamMs?: number },
): Promise<HttpServer> {
  const streams = new Set<{ destroy(): unknown }>()
  const answer = async (request: Request, { outgoing }: HttpBindings | Http2Bindings): Promise<Response> => {
    const response = await fetch(request)
    if (response.headers.get('content-type')?.startsWith('text/event-stream') && !outgoing.closed) {
      streams.add(outgoing)
      outgoing.once('close', () => streams.delete(outgoing))
    }
    return response
  }
  const listener = getRequestListener(answer, { overrideGlobalObjects: false, errorHandler: unreadableTarget })
  // Longer than the 60 s after which the usual load balancers drop an idle connection: dropped here first, it could take a request with it.
  const server = createServer(
    { keepAliveTimeout: 65_000, headersTimeout: 66_000, requireHostHeader: false },
    (request, response) => void listener(request, response),
  )
  answerUnreadable(server, fetch)
  server.listen(port, host)
  await once(server, 'listening').catch((cause: NodeJS.ErrnoException) => {
    throw new Error(`Cannot listen on ${host}:${port}: ${reasons[cause.code ?? ''] ?? cause.message}`, { cause })
  })
  const address = server.address()
  const taken = typeof address === 'object' && address ? address.port : port
  let closing: Promise<void> | undefined

  async function close(): Promise<void> {
    const closed = once(server, 'close')
    server.close()
    const began = performance.now()
    let open = true
    void closed.then(() => (open = false))
    // A connection is idle only once its answer is out, and nobody says when that is.
    while (open && performance.now() < began + drainMs) {
      server.closeIdleConnections()
      // By now it is only those that nobody reads.
      if (performance.now() >= began + streamMs) for (const stream of streams) stream.destroy()
      await Promise.race([closed, sleep(20)])
    }
    server.closeAllConnections()
    await closed
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
