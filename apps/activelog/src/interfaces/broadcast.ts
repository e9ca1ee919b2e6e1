import { setTimeout as sleep } from 'node:timers/promises'
import type { MessageSubscriber } from '@core-backend/events'
import type { Logger } from '../application/ports.ts'
import { registry, topic } from '../domain/events.ts'
import type { Live } from './http/live.ts'

/** Tells those who watch in this process of every event, and reads none while nobody does. Waits for a broker that is away: requests are served without it. */
export function broadcast(subscriber: MessageSubscriber, live: Live, logger: Logger): { close(): Promise<void> } {
  const stopping = new AbortController()
  const { signal } = stopping

  const subscribe = async (): Promise<{ close(): Promise<void> } | undefined> => {
    for (let waitMs = 100; !signal.aborted; waitMs = Math.min(waitMs * 2, 5_000)) {
      try {
        return await subscriber.subscribe([topic], {}, async (message) => {
          const event = await registry.decode(message)
          if (event.tenantId !== undefined) live.wake(event.tenantId)
        })
      } catch (error) {
        logger.warn({ err: error }, 'No live events yet')
        await sleep(waitMs, undefined, { signal }).catch(() => {})
      }
    }
    return undefined
  }

  const run = async (): Promise<void> => {
    while (!signal.aborted) {
      await live.audience(true, signal)
      const subscription = await subscribe()
      await live.audience(false, signal)
      await subscription?.close().catch((error: unknown) => logger.warn({ err: error }, 'The subscription of live events did not end well'))
    }
  }

  const running = run()
  return {
    async close() {
      stopping.abort()
      await running
    },
  }
}
