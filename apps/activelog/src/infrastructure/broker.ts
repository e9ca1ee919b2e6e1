import { type Broker, type BrokerDriver, brokerFromUrl, type BrokerOptions, createBroker } from '@core-backend/messaging'
import { openTelemetry } from '@core-backend/messaging/otel'
import { postgresDriver } from '@core-backend/messaging/postgres'
import { errorText } from '@core-backend/internal/thrown'
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
  topic: string
  group: string
  logger: Logger
}

/** The broker of `BROKER_URL` cannot be used. The message is one line without a password. */
export class BrokerError extends Error {
  override readonly name = 'BrokerError'
  readonly code = 'ERR_ACTIVELOG_BROKER'
  readonly retryable: boolean
  constructor(url: string, cause: unknown) {
    const why = (cause as { name?: unknown }).name === 'TimeoutError' ? 'it does not answer' : errorText(cause)
    super(`Cannot use the broker of BROKER_URL ${url.replace(/\/\/[^@]*@/, '//').replace(/\?.*/s, '')}: ${why}`, { cause })
    this.retryable = (cause as { retryable?: boolean }).retryable ?? !(cause instanceof RangeError)
  }
}

/** The broker of this process, on which every event waits for the group from its first day. Throws {@link BrokerError}. */
export async function openBroker({ url, database, listenUrl, topic, group, logger }: ActivelogBrokerOptions): Promise<Broker> {
  const options: BrokerOptions = {
    tracing: openTelemetry(),
    hooks: {
      onError: ({ error, topic, group, message }) => logger.warn({ err: error, topic, group, messageId: message?.id }, 'A message or its broker made trouble'),
      onStuck: ({ message, group }) => logger.error({ topic: message.topic, group, messageId: message.id }, 'A handler ignores its signal'),
    },
  }
  let broker: Broker | undefined
  try {
    broker = url === undefined ? createBroker(driverOf(database, listenUrl), options) : await brokerFromUrl(url, options)
    await broker.createTopic(topic, { groups: [group] })
    return broker
  } catch (error) {
    await broker?.close()
    throw url === undefined ? error : new BrokerError(url, error)
  }
}

/** Messages in the service's own database. */
function driverOf(database: Database, listenUrl: string | undefined): BrokerDriver {
  return postgresDriver({
    client: database,
    schema: sharedSchema,
    // Alone on its database, the next process is this one come back: it takes its partitions at once, also after SIGKILL.
    ...(listenUrl === undefined ? { member: 'activelog' } : { listen: listenOn(listenUrl) }),
  })
}
