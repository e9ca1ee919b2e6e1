import { EventEmitter, once } from 'node:events'
import type { EventLog, LoggedEvent, Position } from '../../application/ports.ts'

export interface LiveOptions {
  log: EventLog
  /** Between two signs of life on a quiet stream. @default 15_000 */
  heartbeatMs?: number
  /** Between two looks for events of which nobody told. @default 1_000 */
  pollMs?: number
}

/** Server-sent events of the activities, a stream a listener. */
export interface Live {
  /** There are new events of the tenant: its listeners look at once. */
  wake(tenant: string): void
  /** A stream that begins now, or after the event that its client saw last: each event once, in the order of the log, as fast as it is read. */
  open(tenant: string, lastEventId: string | undefined): Promise<ReadableStream<Uint8Array>>
  readonly listeners: number
  /** Resolves once somebody listens, or nobody does, or `signal` aborts. */
  audience(present: boolean, signal: AbortSignal): Promise<void>
  /** Ends every stream; clients that come back bring the id of the last event that they saw. */
  close(): void
}

interface Listener {
  readonly tenant: string
  wake(): void
  beat(): void
  end(): void
}

const utf8 = new TextEncoder()
const page = 500
/** Between the first looks after one was told of. */
const soonMs = 10

export function createLive({ log, heartbeatMs = 15_000, pollMs = 1_000 }: LiveOptions): Live {
  const listeners = new Set<Listener>()
  /** Looks that are under way: listeners that are equally far share one. */
  const looks = new Map<string, Promise<readonly LoggedEvent[]>>()
  const comings = new EventEmitter()
  let closed = false
  const heart = setInterval(() => listeners.forEach((listener) => listener.beat()), heartbeatMs).unref()

  function look(tenant: string, position: Position): Promise<readonly LoggedEvent[]> {
    const key = `${tenant} ${position.txid} ${position.id}`
    const shared = looks.get(key)
    if (shared) return shared
    const fresh = log.after(tenant, position, page).finally(() => looks.get(key) === fresh && looks.delete(key))
    looks.set(key, fresh)
    return fresh
  }

  return {
    wake(tenant) {
      looks.clear() // These began before, and may miss what is told of now.
      for (const listener of listeners) if (listener.tenant === tenant) listener.wake()
    },

    async open(tenant, lastEventId) {
      // Before the answer, so that its client misses nothing that it causes itself.
      let position = await log.position(tenant, lastEventId).catch(() => undefined)
      let listener: Listener
      let over = false
      let woken = false
      let waitMs = soonMs
      let endWait = (): void => {}
      /** What is told of shows a moment later when an older transaction is still open; after a while only the poll is left. */
      const idle = async (): Promise<void> => {
        if (!woken)
          await new Promise<void>((resolve) => {
            const timer = setTimeout(resolve, waitMs).unref()
            endWait = () => (clearTimeout(timer), resolve())
          })
        waitMs = woken ? soonMs : Math.min(waitMs * 2, pollMs)
      }
      const next = async (): Promise<readonly LoggedEvent[]> => {
        woken = false
        position ??= await log.position(tenant, lastEventId)
        return look(tenant, position)
      }
      const leave = (): void => {
        over = true
        listeners.delete(listener)
        comings.emit('change')
        endWait()
      }
      return new ReadableStream<Uint8Array>(
        {
          start(controller) {
            listener = {
              tenant,
              wake() {
                woken = true
                endWait()
              },
              beat() {
                if ((controller.desiredSize ?? 0) > 0) controller.enqueue(utf8.encode(': still here\n\n'))
              },
              end() {
                leave()
                controller.close()
              },
            }
            if (closed) return controller.close()
            listeners.add(listener)
            comings.emit('change')
            controller.enqueue(utf8.encode('retry: 1000\n\n'))
          },
          // Called when the reader wants more: a slow one is behind, and costs no memory.
          async pull(controller) {
            while (!over) {
              // While the database is away there is nothing new.
              const events = await next().catch(() => [])
              if (over) return
              if (events.length > 0) {
                position = events.at(-1)!
                waitMs = soonMs
                controller.enqueue(utf8.encode(events.map(frame).join('')))
                return
              }
              await idle()
            }
          },
          cancel: leave,
        },
        { highWaterMark: 1 },
      )
    },

    get listeners() {
      return listeners.size
    },

    async audience(present, signal) {
      while (listeners.size > 0 !== present && !signal.aborted) await once(comings, 'change', { signal }).catch(() => {})
    },

    close() {
      closed = true
      clearInterval(heart)
      for (const listener of listeners) listener.end()
    },
  }
}

const frame = ({ id, name, activity }: LoggedEvent): string => `id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(activity)}\n\n`
