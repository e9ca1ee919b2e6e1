/**
 * ActiveLog written straight on fastify and pg, for comparison: the same rows in the same tables, the same tracing API, relay and worker beside the requests, in one process.
 * Needs an empty database; `DATABASE_URL`, `PORT`, `TENANTS`, `LOG_LEVEL` as the application has them; `PIPELINE=off` awaits each statement before the next.
 */
import { pino } from 'pino'
import type { Activity } from './activity.ts'
import { openDatabase } from './database.ts'
import { routes } from './http.ts'
import { relay } from './log.ts'
import { tables } from './tables.ts'
import { broadcast, worker } from './worker.ts'

const { DATABASE_URL = '', PORT = '8080', TENANTS = 'acme,globex,initech', LOG_LEVEL = 'info', PIPELINE = 'on' } = process.env
const pipeline = PIPELINE === 'on'
const tenants = TENANTS.split(',')
const logger = pino({ level: LOG_LEVEL })

const requests = openDatabase(DATABASE_URL, { max: 16, pipeline })
const background = openDatabase(DATABASE_URL, { max: 24, pipeline })
await background.query(tables(tenants))

const fatal = (error: unknown): never => {
  logger.fatal({ err: error }, 'Cannot go on')
  process.exit(1)
}
const listeners = new Set<{ tenant: string; send: (id: string, name: string, activity: Activity) => void }>()
const working = await worker(background, fatal)
const watching = broadcast(
  background,
  () => listeners.size > 0,
  ({ tenant, id, name, activity }) => {
    for (const listener of listeners) if (listener.tenant === tenant) listener.send(id, name, activity)
  },
  fatal,
)
const moving = relay(background, fatal, () => {
  working.wake()
  watching.wake()
})

const app = routes({
  db: requests,
  pipeline,
  tenants,
  logger,
  onCommit: moving.wake,
  listen: (tenant, send) => {
    const listener = { tenant, send }
    listeners.add(listener)
    return () => void listeners.delete(listener)
  },
})
console.log(`The twin listens on ${await app.listen({ host: '127.0.0.1', port: Number(PORT) })}, data in DATABASE_URL`)
