import { type Broker, brokerFromUrl, type BrokerOptions, createBroker } from '@core-backend/messaging'
import { openTelemetry } from '@core-backend/messaging/otel'
import { postgresDriver } from '@core-backend/messaging/postgres'
import type { Logger } from '../application/ports.ts'
import type { Database } from './database.ts'
import { listenOn } from './listen.ts'
import { sharedSchema } from './schema.ts'

export interface ActivelogBrokerOptions {
  /** `BROKER_URL`; without one the database carries the messages. */
  url: string | undefined
  database: Database
  /** Other processes publish too: hear of it at once. Absent: this process is the only one. */
  listenUrl: string | undefined
  logger: Logger
}

/** The broker of this process. */
export function openBroker({ url, database, listenUrl, logger }: ActivelogBrokerOptions): Promise<Broker> {
  const options: BrokerOptions = {
    tracing: openTelemetry(),
    hooks: {
      onError: ({ error, topic, group, message }) => logger.warn({ err: error, topic, group, messageId: message?.id }, 'A message or its broker made trouble'),
      onStuck: ({ message, group }) => logger.error({ topic: message.topic, group, messageId: message.id }, 'A handler ignores its signal'),
    },
  }
  if (url !== undefined) return brokerFromUrl(url, options)
  const driver = postgresDriver({
    client: database,
    schema: sharedSchema,
    // Alone on its database, the next process is this one come back: it takes its partitions at once, also after SIGKILL.
    ...(listenUrl === undefined ? { member: 'activelog' } : { listen: listenOn(listenUrl) }),
  })
  return Promise.resolve(createBroker(driver, options))
}
