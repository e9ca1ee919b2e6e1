import { setTimeout as sleep } from 'node:timers/promises'
import { Client, escapeIdentifier } from 'pg'

/** LISTENs on a session of its own, which is replaced when the server cuts it. What was notified meanwhile is lost, so each new session wakes once. */
export const listenOn =
  (connectionString: string) =>
  async (channel: string, onWake: () => void): Promise<() => Promise<void>> => {
    const stopping = new AbortController()
    const { signal } = stopping
    let client: Client | undefined
    let replacing = Promise.resolve()

    const connect = async (): Promise<void> => {
      const fresh = new Client({ connectionString, application_name: 'activelog listen', keepAlive: true, connectionTimeoutMillis: 5_000 })
      fresh.on('error', () => {})
      fresh.on('notification', onWake)
      // One that never came to listen ends too; its caller sees that, and must be the only one who tries again.
      fresh.on('end', () => {
        if (fresh === client) replacing = replace()
      })
      try {
        await fresh.connect()
        await fresh.query(`LISTEN ${escapeIdentifier(channel)}`)
      } catch (error) {
        await fresh.end().catch(() => {})
        throw error
      }
      client = fresh
      onWake()
    }

    const replace = async (): Promise<void> => {
      while (!signal.aborted) {
        try {
          await sleep(1_000, undefined, { signal })
          await connect()
          return
        } catch {
          // The server is still away, or we are stopping.
        }
      }
    }

    await connect()
    return async () => {
      stopping.abort()
      await replacing
      await client?.end().catch(() => {})
    }
  }
