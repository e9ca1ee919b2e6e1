import type { Activity } from '../../domain/activity.ts'

/** An event on its way to those who watch. */
export interface LiveEvent {
  readonly id: string
  readonly name: string
  readonly activity: Activity
}

export interface LiveOptions {
  /** Events that were handled before, from an id on, in the order of their ids. */
  recorded: (tenant: string, fromId: string, limit: number) => Promise<readonly LiveEvent[]>
  /** Between two signs of life on a quiet stream. @default 15_000 */
  heartbeatMs?: number
  /** Events kept for those who come back before they are recorded. @default 1_000 */
  keep?: number
}

/** Server-sent events of the activities, a stream a listener. */
export interface Live {
  /** To every listener of the tenant. */
  publish(tenant: string, event: LiveEvent): void
  /** A stream that begins now, or after the event that its client saw last. */
  open(tenant: string, lastEventId: string | undefined): ReadableStream<Uint8Array>
  readonly listeners: number
  /** Ends every stream; clients that come back bring the id of the last event that they saw. */
  close(): void
}

interface Listener {
  readonly tenant: string
  send(event: LiveEvent): void
  beat(): void
  end(): void
}

const utf8 = new TextEncoder()
/** A reader that is further behind is cut off: it comes back for the rest. */
const maxQueued = 1_000
const page = 500
/** Ids are UUIDv7. Transactions end in another order than they began, clocks differ a little: what may have come in between is sent again. */
const overlapMs = 10_000

export function createLive({ recorded, heartbeatMs = 15_000, keep = 1_000 }: LiveOptions): Live {
  const listeners = new Set<Listener>()
  const recent: { tenant: string; event: LiveEvent }[] = []
  let closed = false
  const heart = setInterval(() => listeners.forEach((listener) => listener.beat()), heartbeatMs).unref()

  /** Everything since some time before `lastEventId`, that one excepted, each once. */
  async function* missed(tenant: string, lastEventId: string): AsyncGenerator<LiveEvent> {
    const sent = new Set([lastEventId])
    let from = earlier(lastEventId, overlapMs)
    for (;;) {
      const events = await recorded(tenant, from, page)
      for (const event of events) if (!sent.has(event.id)) yield ((sent.add(event.id), event))
      if (events.length < page) break
      from = events.at(-1)!.id
    }
    const start = earlier(lastEventId, overlapMs)
    for (const { tenant: whose, event } of recent.slice()) if (whose === tenant && event.id >= start && !sent.has(event.id)) yield ((sent.add(event.id), event))
  }

  return {
    publish(tenant, event) {
      recent.push({ tenant, event })
      if (recent.length > keep) recent.shift()
      for (const listener of listeners) if (listener.tenant === tenant) listener.send(event)
    },

    open(tenant, lastEventId) {
      let listener: Listener
      return new ReadableStream<Uint8Array>(
        {
          async start(controller) {
            /** What comes in while the missed events are read; afterwards nothing. */
            let waiting: LiveEvent[] | undefined = lastEventId === undefined ? undefined : []
            const write = (text: string): void => {
              if (!listeners.has(listener)) return
              controller.enqueue(utf8.encode(text))
              if ((controller.desiredSize ?? 0) < -maxQueued) listener.end()
            }
            listener = {
              tenant,
              send: (event) => (waiting ? void waiting.push(event) : write(frame(event))),
              beat: () => write(': still here\n\n'),
              end: () => {
                if (listeners.delete(listener)) controller.close()
              },
            }
            if (closed) return controller.close()
            listeners.add(listener)
            write('retry: 1000\n\n')
            if (lastEventId === undefined) return
            try {
              const sent = new Set<string>()
              for await (const event of missed(tenant, lastEventId)) {
                sent.add(event.id)
                write(frame(event))
                if (!listeners.has(listener)) return
              }
              for (const event of waiting ?? []) if (!sent.has(event.id)) write(frame(event))
              waiting = undefined
            } catch {
              listener.end() // the database is away: the client comes back with the same id
            }
          },
          cancel: () => void listeners.delete(listener),
        },
        { highWaterMark: 1 },
      )
    },

    get listeners() {
      return listeners.size
    },

    close() {
      closed = true
      clearInterval(heart)
      for (const listener of listeners) listener.end()
    },
  }
}

const frame = ({ id, name, activity }: LiveEvent): string => `id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(activity)}\n\n`

/** The lowest UUIDv7 of a time some ms before that of `id`. */
function earlier(id: string, ms: number): string {
  const time = Math.max(0, Number.parseInt(id.slice(0, 8) + id.slice(9, 13), 16) - ms)
  const hex = time.toString(16).padStart(12, '0')
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`
}
