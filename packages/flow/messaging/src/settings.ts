import { checkOptions, isString } from '#internal/options'
import { readSettings, type Settings } from '#internal/settings'
import type { SubscribeOptions } from './broker.ts'

/** What this package reads from the environment; the README's table is written from it. */
export const variables = {
  brokerUrl: {
    name: 'BROKER_URL',
    type: 'url',
    default: 'memory:',
    about: 'The broker: `memory:` or `postgres://user:password@host:5432/database`',
    secret: true,
  },
  group: { name: 'QUEUE_CONSUMER_GROUP', type: 'string', about: 'Group of subscriptions made with `subscribeOptions`' },
  concurrency: { name: 'QUEUE_CONCURRENCY', type: 'integer', default: '1', min: 1, about: 'Handlers at once' },
  maxAttempts: { name: 'QUEUE_RETRY_MAX_ATTEMPTS', type: 'integer', default: '3', min: 1, about: 'Failed runs before a message is a dead letter' },
  initialDelayMs: { name: 'QUEUE_RETRY_INITIAL_DELAY', type: 'duration', default: '1s', about: 'Bound of the first wait between runs' },
  maxDelayMs: { name: 'QUEUE_RETRY_MAX_DELAY', type: 'duration', default: '30s', about: 'Bound of every wait between runs' },
  multiplier: { name: 'QUEUE_RETRY_MULTIPLIER', type: 'number', default: '2', min: 1, about: 'Growth of the bound from one wait to the next' },
  deadLetter: { name: 'QUEUE_DLQ_ENABLED', type: 'boolean', default: 'true', about: 'Whether failed messages are kept as dead letters' },
  deadLetterSuffix: { name: 'QUEUE_DLQ_SUFFIX', type: 'string', default: '.dlq', about: 'Dead letters stand in `<topic>.<group><suffix>`' },
} as const

/** What `fromEnv` gives: durations in ms. */
export type MessagingSettings = Settings<typeof variables>

/** Reads and checks the variables; opens nothing. Throws one `SettingsError` (`ERR_MESSAGING_SETTINGS`) with every fault. */
export function fromEnv(env: Record<string, string | undefined> = process.env, options: { prefix?: string } = {}): MessagingSettings {
  checkOptions('fromEnv', options, { prefix: isString })
  const { prefix = '' } = options
  return readSettings(variables, 'ERR_MESSAGING_SETTINGS', env, prefix)
}

/** The settings as options of `subscribe`. */
export function subscribeOptions({ group, concurrency, maxAttempts, initialDelayMs, maxDelayMs, multiplier, deadLetter }: MessagingSettings): SubscribeOptions {
  return { group, concurrency, retry: { maxAttempts, initialDelayMs, maxDelayMs, multiplier }, ...(group === undefined ? {} : { deadLetter }) }
}
