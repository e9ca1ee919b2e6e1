import { checkOptions, isSignal, isString } from '#internal/options'
import { errorText } from '#internal/thrown'
import { type Broker, type BrokerOptions, createBroker } from './broker.ts'
import type { BrokerDriver } from './driver.ts'
import { MessagingError } from './errors.ts'
import { memoryDriver } from './memory.ts'
import { brokerChecks } from './options.ts'
import { fromEnv } from './settings.ts'

/** The broker's options, and a signal for the connecting. */
export interface FromUrlOptions extends BrokerOptions {
  /** Gives up connecting. */
  signal?: AbortSignal | undefined
}

/** A broker URL taken apart. Unlike `URL` it takes lists of hosts and unix sockets. */
export interface BrokerUrl {
  readonly scheme: string
  readonly user: string | undefined
  readonly password: string | undefined
  readonly hosts: readonly { readonly host: string; readonly port: number | undefined }[]
  readonly path: string
  readonly params: Readonly<Record<string, string>>
}

/** Splits `scheme://user:password@host:port,host:port/path?name=value`; / ? # and @ in a part are percent-encoded. Throws `RangeError` without showing the password. */
export function parseBrokerUrl(text: string): BrokerUrl {
  isString(text, 'A broker URL')
  const match = /^([a-z][a-z0-9+.-]*):(?:\/\/(?:([^@/?#]*)@)?([^@/?#]*))?([^@?#]*)(?:\?([^@#]*))?$/i.exec(text)
  if (!match) throw badUrl(text)
  const [, scheme = '', credentials, hosts = '', path = '', query = ''] = match
  const colon = credentials?.indexOf(':') ?? -1
  try {
    return {
      scheme: scheme.toLowerCase(),
      user: credentials === undefined ? undefined : decodeURIComponent(colon < 0 ? credentials : credentials.slice(0, colon)),
      password: colon < 0 ? undefined : decodeURIComponent(credentials!.slice(colon + 1)),
      hosts: hosts === '' ? [] : hosts.split(',').map(parseHost),
      path: decodeURIComponent(path.replace(/^\//, '')),
      params: Object.fromEntries(new URLSearchParams(query)),
    }
  } catch (cause) {
    throw badUrl(text, cause)
  }
}

/** What a bad host is said to be may be a part of the password, so it is not shown. */
function parseHost(text: string): { host: string; port: number | undefined } {
  const match = /^(\[[^\]]+\]|[^:]*)(?::(\d{1,5}))?$/.exec(text)
  const port = match?.[2] === undefined ? undefined : Number(match[2])
  if (!match || (port !== undefined && (port < 1 || port > 65_535))) throw new RangeError('a host must be host, host:port or [ipv6]:port')
  return { host: decodeURIComponent(match[1]!.replace(/^\[|\]$/g, '')), port }
}

/** Shows the scheme and what follows the last @, which is no password. */
function badUrl(url: string, cause?: unknown): RangeError {
  const scheme = /^[a-z][a-z0-9+.-]*:\/\//i.exec(url)?.[0] ?? ''
  const at = url.lastIndexOf('@')
  const shown = JSON.stringify(`${scheme}***${at < 0 ? '' : url.slice(at).replace(/\?.*/s, '?***')}`)
  const why = cause === undefined ? '' : `: ${errorText(cause)}`
  const how = 'write scheme://user:password@host:port/path, and percent-encode / ? # @ and % in its parts'
  return new RangeError(`Bad broker URL ${shown}${why}; ${how}; there are ${known}`, { cause })
}

/** What makes a driver of a URL; each is loaded when it is asked for. */
const schemes: Record<string, (url: BrokerUrl, signal: AbortSignal | undefined) => Promise<BrokerDriver>> = {
  memory: memoryFromUrl,
  postgres: postgresFromUrl,
  postgresql: postgresFromUrl,
}

const known = 'memory:, postgres://, postgresql://'

/** Connects to the broker of a URL, `memory:` or `postgres://…`; driver and client are loaded only now. What it opened, `close` closes. */
export async function brokerFromUrl(url: string, given: FromUrlOptions = {}): Promise<Broker> {
  checkOptions('brokerFromUrl', given, { ...brokerChecks, signal: isSignal })
  const { signal, ...options } = given
  const parsed = parseBrokerUrl(url)
  const open = schemes[parsed.scheme]
  if (!open) throw new RangeError(`No driver for ${parsed.scheme}: in a broker URL; there are ${known}`)
  signal?.throwIfAborted()
  return createBroker(await open(parsed, signal), options)
}

/** The broker that `BROKER_URL` names, with the dead-letter suffix of `QUEUE_DLQ_SUFFIX`. */
export async function brokerFromEnv(env: Record<string, string | undefined> = process.env, options: FromUrlOptions = {}): Promise<Broker> {
  const settings = fromEnv(env)
  return brokerFromUrl(settings.brokerUrl, { deadLetterSuffix: settings.deadLetterSuffix, ...options })
}

async function memoryFromUrl({ params }: BrokerUrl): Promise<BrokerDriver> {
  const unknown = Object.keys(params)[0]
  if (unknown !== undefined) throw new RangeError(`Unknown parameter ${unknown} in a memory URL; there are none`)
  return memoryDriver()
}

async function postgresFromUrl(url: BrokerUrl, signal: AbortSignal | undefined): Promise<BrokerDriver> {
  if (url.hosts.length > 1) throw new RangeError(`A postgres URL has one host, got ${url.hosts.map(({ host }) => host).join(', ')}`)
  const pg = await load(() => import('pg'), 'pg')
  const { postgresDriver } = await import('./postgres.ts')
  const { host, schema, ssl, max = '10', ...rest } = url.params
  const unknown = Object.keys(rest)[0]
  if (unknown !== undefined) throw new RangeError(`Unknown parameter ${unknown} in a postgres URL; there are host, schema, ssl, max`)
  if (!/^[1-9]\d{0,5}$/.test(max)) throw new RangeError(`max in a postgres URL must be an integer of at least 1, got ${JSON.stringify(max)}`)
  const server = url.hosts[0]
  const pool = new pg.default.Pool({
    host: host ?? (server?.host || '127.0.0.1'),
    port: server?.port ?? 5432,
    user: url.user,
    password: url.password,
    database: url.path || url.user,
    ssl: ssl === undefined || ssl === 'false' ? false : { rejectUnauthorized: ssl !== 'insecure' },
    max: Number(max),
    keepAlive: true,
    connectionTimeoutMillis: 10_000,
    // A little above the driver's own deadline: a connection that went silent must not keep its place in the pool.
    query_timeout: 15_000,
  })
  // A lost idle connection is replaced at the next query; without a listener it would end the process.
  pool.on('error', () => undefined)
  const driver = postgresDriver({ client: pool, ...(schema === undefined ? {} : { schema }) })
  try {
    await driver.ping({ signal: signal ?? AbortSignal.timeout(10_000) })
  } catch (error) {
    await pool.end()
    throw error
  }
  return {
    ...driver,
    close: async () => {
      await driver.close()
      if (!pool.ended) await pool.end()
    },
  }
}

async function load<T>(from: () => Promise<T>, name: string): Promise<T> {
  try {
    return await from()
  } catch (cause) {
    if ((cause as { code?: string }).code !== 'ERR_MODULE_NOT_FOUND') throw cause
    throw new MessagingError('ERR_MESSAGING_CLIENT_MISSING', `This broker needs the package ${name}: npm install ${name}`, { retryable: false, cause })
  }
}
