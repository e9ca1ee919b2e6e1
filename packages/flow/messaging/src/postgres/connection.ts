import { enough, orAborted } from '#internal/abort'
import type { Clock } from '#internal/clock'
import type { SqlClient } from '#internal/sql'
import { errorText } from '#internal/thrown'
import { MessagingError } from '../errors.ts'
import type { Setup } from './schema.ts'

export interface ConnectionOptions {
  clock: Clock
  statementMs: number
  setup: Setup
}

/** A statement that failed, and what is known of it. */
export class StatementError extends MessagingError {
  /** `never`: it did not reach the server. `no`: the server took it back. `unknown`: no answer came, it may be done. */
  readonly executed: 'never' | 'no' | 'unknown'
  constructor(
    code: 'ERR_MESSAGING_CONNECTION' | 'ERR_MESSAGING_BROKER',
    message: string,
    options: { retryable: boolean; cause: unknown; executed: 'never' | 'no' | 'unknown' },
  ) {
    super(code, message, options)
    this.executed = options.executed
  }
}

/** The client that was passed in, with a deadline of our own on each statement; sets the schema up before the first. Throws `StatementError`. */
export interface Connection {
  run<Row>(text: string, values: unknown[], options?: { signal?: AbortSignal | undefined }): Promise<readonly Row[]>
}

export function createConnection(client: SqlClient, { clock, statementMs, setup }: ConnectionOptions): Connection {
  let ready: Promise<void> | undefined
  let isReady = false

  /** An answer that comes after its deadline is ignored: what it did is for the statement itself to make safe. */
  const query = async (text: string, values: unknown[], signal?: AbortSignal): Promise<unknown[]> => {
    const timer = new AbortController()
    const late = clock.sleep(statementMs, { signal: timer.signal }).then(() => {
      throw new Error(`no answer within ${statementMs} ms`)
    })
    late.catch(() => undefined)
    try {
      const { rows } = await orAborted(Promise.race([client.query(text, values), late]), signal)
      return rows
    } catch (error) {
      throw signal?.aborted && error === signal.reason ? error : describe(error)
    } finally {
      timer.abort(enough)
    }
  }

  const prepare = (): Promise<void> =>
    (ready ??= setup
      .run((text, values = []) => query(text, values))
      .then(
        () => {
          isReady = true
        },
        (error: unknown) => {
          ready = undefined
          throw error
        },
      ))

  return {
    run: async <Row>(text: string, values: unknown[], { signal }: { signal?: AbortSignal | undefined } = {}) => {
      if (!isReady) await orAborted(prepare(), signal)
      return (await query(text, values, signal)) as Row[]
    },
  }
}

const notSent = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH'])
/** SQLSTATE classes that may pass: connection, rollback, resources, locks, operator, system. And 25006: the server is a standby by now. */
const passing = new Set(['08', '40', '53', '55', '57', '58'])
const notYetIn = new Set(['28P01', '28000', '3D000', '53300', '57P03'])

/** What ends a session rather than a statement. The severity would tell too, but in the server's language. */
const ending = /^(08|57P)/

function describe(error: unknown): MessagingError {
  if (error instanceof MessagingError) return error
  const { code, severity } = (typeof error === 'object' && error !== null ? error : {}) as { code?: unknown; severity?: unknown }
  const state = typeof code === 'string' ? code : ''
  const text = errorText(error)
  const message = `PostgreSQL: ${withoutPassword(text || state)}`
  // Only what the server itself says has a severity.
  if (severity !== undefined) {
    const retryable = passing.has(state.slice(0, 2)) || state === '25006'
    const executed = notYetIn.has(state) ? 'never' : ending.test(state) ? 'unknown' : 'no'
    return new StatementError(executed === 'no' ? 'ERR_MESSAGING_BROKER' : 'ERR_MESSAGING_CONNECTION', message, { retryable, cause: error, executed })
  }
  const ended = /after calling end|Client was closed|PGlite is clos/i.test(text)
  const never = ended || notSent.has(state) || /trying to connect/.test(text)
  return new StatementError('ERR_MESSAGING_CONNECTION', message, { retryable: !ended, cause: error, executed: never ? 'never' : 'unknown' })
}

/** Up to the last @ of what may be a URL: a password that was not percent-encoded may have any of its characters. */
const withoutPassword = (text: string): string => text.replaceAll(/(\w+:\/\/[^\s:@/]*):\S*@/g, '$1:***@')
