import type { Fault } from '../../domain/activity.ts'
import { badField, HttpError } from './problem.ts'

const maxBytes = 64 * 1_024
const utf8 = new TextDecoder('utf-8', { fatal: true })

/** The request's JSON; refuses what is too long without reading it to its end. */
export async function readJson(request: Request): Promise<unknown> {
  const unsupported = [...mediaFaults(request.headers)]
  if (unsupported.length > 0) throw new HttpError(415, 'The body must be application/json in UTF-8, not compressed', unsupported)
  const bytes = await readBytes(request).catch((error: unknown) => {
    throw error instanceof HttpError ? error : new HttpError(400, 'The body did not come to its end')
  })
  try {
    return JSON.parse(utf8.decode(bytes))
  } catch (error) {
    throw badField('', `The body is not JSON: ${(error as Error).message.slice(0, 200)}`)
  }
}

function* mediaFaults(headers: Headers): Generator<Fault> {
  const type = headers.get('content-type') ?? ''
  const [media = '', ...parameters] = type.split(';').map((part) => part.trim().toLowerCase())
  const charset = parameters.find((parameter) => parameter.startsWith('charset='))?.slice('charset='.length)
  if (!/^application\/([\w.-]+\+)?json$/.test(media) || !/^("?)utf-?8\1$/.test(charset ?? 'utf-8'))
    yield { field: 'Content-Type', detail: `must be application/json, with charset=utf-8 if any, got ${JSON.stringify(type.slice(0, 100))}` }
  const coding = headers.get('content-encoding') ?? ''
  if (!/^\s*(identity)?\s*$/i.test(coding)) yield { field: 'Content-Encoding', detail: `must be absent, got ${JSON.stringify(coding.slice(0, 100))}` }
}

async function readBytes(request: Request): Promise<Uint8Array> {
  const length = request.headers.get('content-length')
  if (length !== null && Number(length) <= maxBytes) return new Uint8Array(await request.arrayBuffer())
  const chunks: Uint8Array[] = []
  let size = 0
  if (length === null && request.body)
    for await (const chunk of request.body) {
      chunks.push(chunk)
      size += chunk.byteLength
      if (size > maxBytes) break
    }
  if (length !== null || size > maxBytes) throw new HttpError(413, `The body must be at most ${maxBytes} bytes`)
  return Buffer.concat(chunks)
}
