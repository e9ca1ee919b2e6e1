import { setTimeout as sleep } from 'node:timers/promises'
import { Client, escapeIdentifier } from 'pg'

/** LISTENs on a session of its own, which is replaced when the server cuts it. What was notified meanwhile is lost, so each new session wakes once. */
export const listenOn =
  (connectionString: string) =>
  async (channel: string, onWake: () => void): Promise<() => Promise<void>> => {
    const stopping = new AbortController()
    let client: Client | undefined

    const connect = async (): Promise<Client> => {
      const fresh = new Client({ connectionString, application_name: 'activelog listen', keepAlive: true, connectionTimeoutMillis: 5_000 })
      fresh.on('error', () => {})
      fresh.on('notification', onWake)
      fresh.on('end', () => void again())
      await fresh.connect()
      await fresh.query(`LISTEN ${escapeIdentifier(channel)}`)
      onWake()
      return fresh
    }

    const again = async (): Promise<void> => {
      if (client === undefined) return // the first connection's failure is its caller's
      while (!stopping.signal.aborted) {
        try {
          await sleep(1_000, undefined, { signal: stopping.signal })
          client = await connect()
          return
        } catch {
          // The server is still away, or we are stopping.
        }
      }
    }

    client = await connect()
    return async () => {
      stopping.abort()
      await client?.end().catch(() => {})
    }
  }
