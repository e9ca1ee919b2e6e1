import { badField, HttpError } from './problem.ts'

const maxBytes = 64 * 1_024
const utf8 = new TextDecoder('utf-8', { fatal: true })

/** The request's JSON; refuses what is too long without reading it to its end. */
export async function readJson(request: Request): Promise<unknown> {
  const type = request.headers.get('content-type') ?? ''
  if (!/^application\/([\w.-]+\+)?json\s*(;|$)/i.test(type)) throw new HttpError(415, 'The body must be application/json')
  const bytes = await readBytes(request)
  try {
    return JSON.parse(utf8.decode(bytes))
  } catch (error) {
    throw badField('', `The body is not JSON: ${(error as Error).message.slice(0, 200)}`)
  }
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
