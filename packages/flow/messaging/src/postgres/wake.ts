import type { Clock } from '#internal/clock'
import type { Connection } from './connection.ts'
import type { Statements } from './statements.ts'

/** LISTENs on `channel` (an identifier to be quoted), calls `onWake` at each notification; what it gives ends that. */
export type Listen = (channel: string, onWake: () => void) => Promise<() => Promise<void>>

export interface NotifierOptions {
  connection: Connection
  sql: Statements
  clock: Clock
  schema: string
  listen: Listen | undefined
  notify: boolean
  /** How long closing waits for `listen`. */
  statementMs: number
  onWake(): void
}

/** Wakes readers in other processes. Nothing depends on it: a notification that is lost costs the time to the next poll. */
export interface Notifier {
  readonly listening: boolean
  /** Listens, if it is to and does not yet. */
  start(): void
  /** Something was published. */
  touched(): void
  close(): Promise<void>
}

/** At commit a notification takes a lock of the whole database: so never with a publish, and few. */
const everyMs = 20
const againMs = 10_000

export function createNotifier({ connection, sql, clock, schema, listen, notify, statementMs, onWake }: NotifierOptions): Notifier {
  const channel = `cb_messaging_${schema}`
  let stopListening: (() => Promise<void>) | undefined
  let starting: Promise<void> | undefined
  let triedAt = -Infinity
  let closed = false
  let sending = false
  let more = false

  const send = async (): Promise<void> => {
    sending = true
    do {
      more = false
      await connection.run(sql.notify, [channel]).catch(() => undefined)
      await clock.sleep(everyMs, { background: true })
    } while (more && !closed)
    sending = false
  }

  return {
    get listening() {
      return stopListening !== undefined
    },
    start: () => {
      if (!listen || stopListening || starting || closed || clock.monotonic() - triedAt < againMs) return
      triedAt = clock.monotonic()
      starting = listen(channel, onWake)
        .then(
          (stop) => {
            stopListening = stop
          },
          () => undefined,
        )
        .finally(() => {
          starting = undefined
        })
    },
    touched: () => {
      if (!notify || closed) return
      if (sending) more = true
      else void send()
    },
    close: async () => {
      closed = true
      const end = async (): Promise<void> => {
        await starting
        const stop = stopListening
        stopListening = undefined
        await stop?.()
      }
      // Both are the caller's code, which may never answer; what answers late is ended all the same.
      const timer = new AbortController()
      const ended = end().finally(() => timer.abort())
      ended.catch(() => undefined)
      await Promise.race([ended, clock.sleep(statementMs, { signal: timer.signal }).catch(() => ended)])
    },
  }
}
