import { EventEmitter, once } from 'node:events'
import { enough } from '@core-backend/internal/abort'
import { type Clock, systemClock } from '@core-backend/internal/clock'
import type { EventLog, LoggedEvent, Logger, Position } from '../../application/ports.ts'
import { isUnavailable } from '../../infrastructure/database.ts'
import { HttpError } from './problem.ts'
import { createRoom, type Room, type Waiting } from './room.ts'

export interface LiveOptions {
  log: EventLog
  logger: Logger
  /** Between two signs of life on a quiet stream. @default 15_000 */
  heartbeatMs?: number
  /** Between two looks for events of which nobody told. @default 1_000 */
  pollMs?: number
  /** Of one tenant. @default 1_000 */
  maxListeners?: number
  clock?: Clock
}

/** Server-sent events of the activities, a stream a listener. */
export interface Live {
  /** There are new events of the tenant: its listeners look at once. */
  wake(tenant: string): void
  /** A stream that begins now, with the id of the last event before it, or after the event that its client saw last: each event once, in the order of the log, as fast as it is read. Rejects when it cannot find out where now is, and with `HttpError` when the tenant has its most. */
  open(tenant: string, lastEventId: string | undefined): Promise<ReadableStream<Uint8Array>>
  readonly listeners: number
  /** Resolves once somebody listens, or nobody does, or `signal` aborts. */
  audience(present: boolean, signal: AbortSignal): Promise<void>
  /** Ends every stream; clients that come back bring the last id that they saw. */
  close(): void
}

interface Listener {
  beat(): void
  end(): void
}

/** Events as they are sent, the same bytes to all who want them. */
interface Page {
  readonly chunk: Uint8Array
  readonly end: Position
}

const utf8 = new TextEncoder()
/** Of one look. Of what its client does not read a stream holds none; the HTTP server one, and one more when both were there before it had sent the headers. */
const page = 500
const pageBytes = 2 ** 18

export function createLive({ log, logger, heartbeatMs = 15_000, pollMs = 1_000, maxListeners = 1_000, clock = systemClock }: LiveOptions): Live {
  const listeners = new Set<Listener>()
  /** Looks that are under way: listeners that are equally far share one, unless it began before what they were told of. */
  const looks = new Map<string, Promise<Page | undefined>>()
  /** Tenants whose log cannot be read, and of whom that was told. */
  const failing = new Set<string>()
  const comings = new EventEmitter()
  const rooms = new Map<string, Room>()
  const closing = new AbortController()
  const { signal: closed } = closing
  void beat()

  async function beat(): Promise<void> {
    for (;;) {
      await clock.sleep(heartbeatMs, { signal: closed, background: true }).catch(() => {})
      if (closed.aborted) return
      for (const listener of listeners) listener.beat()
    }
  }

  function roomOf(tenant: string): Room {
    let room = rooms.get(tenant)
    if (!room) rooms.set(tenant, (room = createRoom({ pollMs, clock })))
    return room
  }

  /** A database that is away is told where its statements are watched. */
  function tell(tenant: string, error: unknown): void {
    if (isUnavailable(error) || failing.has(tenant)) return
    failing.add(tenant)
    logger.error({ err: error, tenant }, 'The log of live events cannot be read')
  }

  function look(tenant: string, position: Position): Promise<Page | undefined> {
    const key = `${tenant} ${roomOf(tenant).told} ${position.txid} ${position.id}`
    const shared = looks.get(key)
    if (shared) return shared
    const fresh = log
      .after(tenant, position, page, pageBytes)
      .then(pageOf)
      .finally(() => looks.delete(key))
    looks.set(key, fresh)
    return fresh
  }

  return {
    wake(tenant) {
      rooms.get(tenant)?.tell()
    },

    async open(tenant, lastEventId) {
      const room = roomOf(tenant)
      if (room.seats >= maxListeners) throw new HttpError(503, `This process has ${maxListeners} streams of this tenant already, which is the most; try again`)
      room.seats++
      // Before the answer, so that its client misses nothing that it causes itself.
      let position = await log.position(tenant, lastEventId).catch((error: unknown) => {
        // Who says where to go on loses nothing by a position that is found out later, and browsers give up for good at any answer but 200.
        if (lastEventId !== undefined) return undefined
        room.seats--
        throw error
      })
      let listener: Listener
      let over = false
      const waiting: Waiting<Page> = {
        get position() {
          return position
        },
        async look() {
          try {
            position ??= await log.position(tenant, lastEventId)
            const found = await look(tenant, position)
            failing.delete(tenant)
            return found
          } catch (error) {
            tell(tenant, error)
            return undefined
          }
        },
      }
      const leave = (): void => {
        if (over) return
        over = true
        room.seats--
        listeners.delete(listener)
        comings.emit('change')
        room.leave(waiting)
      }
      return new ReadableStream<Uint8Array>(
        {
          start(controller) {
            listener = {
              beat() {
                if (controller.desiredSize === 0) controller.enqueue(utf8.encode(': still here\n\n'))
              },
              end() {
                leave()
                controller.close()
              },
            }
            if (closed.aborted) return listener.end()
            listeners.add(listener)
            comings.emit('change')
            controller.enqueue(utf8.encode(lastEventId === undefined ? `retry: 1000\nid: ${position!.id}\n\n` : 'retry: 1000\n\n'))
          },
          // Called when the reader wants more: a slow one is behind, and costs no memory.
          async pull(controller) {
            while (!over) {
              const { told } = room
              const found = await waiting.look()
              if (over) return
              if (found) {
                position = found.end
                return controller.enqueue(found.chunk)
              }
              await room.idle(waiting, told)
            }
          },
          cancel: leave,
        },
        { highWaterMark: 0 },
      )
    },

    get listeners() {
      return listeners.size
    },

    async audience(present, signal) {
      while (listeners.size > 0 !== present && !signal.aborted) await once(comings, 'change', { signal }).catch(() => {})
    },

    close() {
      closing.abort(enough)
      for (const listener of listeners) listener.end()
    },
  }
}

const frame = ({ id, name, activity }: LoggedEvent): string => `id: ${id}\nevent: ${name}\ndata: ${JSON.stringify(activity)}\n\n`

function pageOf(events: readonly LoggedEvent[]): Page | undefined {
  const end = events.at(-1)
  return end && { chunk: utf8.encode(events.map(frame).join('')), end: { txid: end.txid, id: end.id } }
}
