import { setTimeout as sleep } from 'node:timers/promises'
import { Client, escapeIdentifier } from 'pg'
import { part } from './database.ts'

/** LISTENs on a session of its own, which is replaced when the server cuts it. What was notified meanwhile is lost, so each new session wakes once. `patienceMs`: with a server that says nothing. */
export const listenOn =
  (connectionString: string, patienceMs = 5_000) =>
  async (channel: string, onWake: () => void): Promise<() => Promise<void>> => {
    const stopping = new AbortController()
    const { signal } = stopping
    let client: Client | undefined
    let newest: Client | undefined
    let replacing = Promise.resolve()

    const connect = async (): Promise<void> => {
      const patience = { connectionTimeoutMillis: patienceMs, query_timeout: patienceMs }
      const fresh = new Client({ connectionString, application_name: 'activelog listen', keepAlive: true, ...patience })
      newest = fresh
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
        await part(fresh)
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
      if (newest) await part(newest)
      await replacing
    }
  }
