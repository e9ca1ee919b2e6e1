import { type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Duplex } from 'node:stream'
import { RequestError } from '@hono/node-server'
import { uuidv7 } from '@core-backend/internal/uuid'
import { HttpError, problem } from './problem.ts'

type Fetch = (request: Request) => Response | Promise<Response>
type ParserError = Error & { code?: string; rawPacket?: Buffer }

const faults: Record<string, [status: number, detail: string]> = {
  HPE_HEADER_OVERFLOW: [431, 'The headers must be at most 16 KiB'],
  HPE_CHUNK_EXTENSIONS_OVERFLOW: [413, 'The extensions of a chunk must be at most 16 KiB'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'The request did not come to its end in time'],
}

/** What Node's parser refuses never becomes a request: it is answered here, as every other fault is, and its connection ends. */
export function answerUnreadable(server: Server, fetch: Fetch): void {
  const answering = new WeakMap<Duplex, ServerResponse>()
  const refused = new WeakSet<Duplex>()
  server.on('request', ({ socket }: IncomingMessage, response: ServerResponse) => void answering.set(socket, response))
  server.on('clientError', (error: ParserError, socket: Duplex) => {
    if (refused.has(socket)) return
    refused.add(socket)
    const running = answering.get(socket)
    // In the middle of an answer another one would be taken for a part of it.
    if (!socket.writable || (running?.headersSent && !running.writableFinished)) return void socket.destroy()
    void refuse(error, socket, fetch)
  })
}

/** A URL or a Host header of which no request can be made: the answer to it, or to whatever else is thrown before there is one. */
export const unreadableTarget = (error: unknown): Response =>
  problem(error instanceof RequestError ? new HttpError(400, `The request cannot be read: ${error.message}`) : error, uuidv7())

async function refuse(error: ParserError, socket: Duplex, fetch: Fetch): Promise<void> {
  try {
    socket.end(await asText(await answerTo(error, fetch)))
    // Destroyed at once, it would take the answer along while the other side still sends.
    setTimeout(() => socket.destroy(), 1_000).unref()
  } catch {
    socket.destroy()
  }
}

function answerTo({ code = '', rawPacket }: ParserError, fetch: Fetch): Response | Promise<Response> {
  const [, method, path] = /^([\w!#$%&'*+.^`|~-]{1,50}) (\/\S*) HTTP\/1\.[01]\r\n/.exec(rawPacket?.toString('latin1') ?? '') ?? []
  // A method that HTTP allows and Node does not know: the routes say what there is instead.
  if (code === 'HPE_INVALID_METHOD' && method !== undefined && path !== undefined) return fetch(new Request(`http://localhost${path}`, { method }))
  const [status, detail] = faults[code] ?? [400, 'This is no HTTP request']
  return problem(new HttpError(status, detail), uuidv7())
}

async function asText(response: Response): Promise<string> {
  const body = await response.text()
  const headers = { ...Object.fromEntries(response.headers), 'content-length': Buffer.byteLength(body), connection: 'close' }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return `HTTP/1.1 ${response.status} ${STATUS_CODES[response.status]}\r\n${lines.join('')}\r\n${body}`
}
