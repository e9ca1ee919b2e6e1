import type { OutgoingMessage, StoredMessage } from '../driver.ts'

/** What of a message travels as JSON. */
export interface Columns {
  id: string
  key: string | null
  headers: Readonly<Record<string, string>> | null
}

export interface MessageRow {
  pid: number
  /** An integer. */
  offset: string
  ts: number
  id: string
  key: string | null
  headers: string | null
  value: Uint8Array | null
}

/** What the columns cannot hold, under the header name that no header can have. */
interface Rest {
  /** Text with NUL or lone surrogates. */
  id?: string
  key?: string
  rawKey?: string
  rawHeaders?: [string, string][]
}

// oxlint-disable-next-line no-control-regex
const unfit = /\0|\p{Cs}/u

/** Throws `RangeError` for what cannot be stored; the id and the key come back as they were, whatever characters they have. */
export function toColumns(message: OutgoingMessage): Columns {
  const { id, key, headers, timestamp, rawKey, rawHeaders } = message
  if (!Number.isFinite(timestamp)) throw new RangeError(`Bad timestamp ${timestamp} of a message to ${message.topic}`)
  const columns: Columns = { id, key: key ?? null, headers: isEmpty(headers) ? null : headers }
  if (rawKey === undefined && rawHeaders === undefined && !unfit.test(id) && !(key !== undefined && unfit.test(key))) return columns
  const rest: Rest = {}
  if (unfit.test(id)) {
    rest.id = id
    columns.id = ''
  }
  if (key !== undefined && unfit.test(key)) {
    rest.key = key
    columns.key = null
  }
  if (rawKey) rest.rawKey = Buffer.from(rawKey).toString('base64')
  if (rawHeaders) rest.rawHeaders = rawHeaders.map(([name, value]) => [name, Buffer.from(value).toString('base64')])
  // As text within text: the server must not decode the escapes.
  columns.headers = { ...headers, '': JSON.stringify(rest) }
  return columns
}

const isEmpty = (object: object): boolean => {
  for (const _ in object) return false
  return true
}

const noHeaders: Readonly<Record<string, string>> = Object.freeze({})
const noBody = new Uint8Array(0)

/** Reads rows; headers that follow one another unchanged are parsed once and shared. */
export function createReader(): (row: MessageRow) => StoredMessage {
  let lastText: string | undefined
  let lastHeaders: Readonly<Record<string, string>> = noHeaders

  return ({ id, key, headers: text, ts, value }) => {
    if (text === null)
      return { id, idStable: true, key: key ?? undefined, value: value ?? noBody, headers: noHeaders, timestamp: ts, tombstone: value === null }
    if (text !== lastText) {
      lastHeaders = Object.freeze(JSON.parse(text) as Record<string, string>)
      lastText = text
    }
    const message = { id, idStable: true, key: key ?? undefined, value: value ?? noBody, headers: lastHeaders, timestamp: ts, tombstone: value === null }
    return '' in lastHeaders ? withRest(message) : message
  }
}

function withRest(message: StoredMessage): StoredMessage {
  const { '': text, ...headers } = message.headers
  const { id = message.id, key = message.key, rawKey, rawHeaders } = JSON.parse(text!) as Rest
  return {
    ...message,
    id,
    key,
    headers,
    rawKey: rawKey === undefined ? undefined : bytes(rawKey),
    rawHeaders: rawHeaders?.map(([name, value]) => [name, bytes(value)] as const),
  }
}

const bytes = (base64: string): Uint8Array => new Uint8Array(Buffer.from(base64, 'base64'))
