// A process that consumes as one member of a group and writes down what it was given, started, finished and settled. Its plan is its argument, as JSON.
// Lines of standard input: `block MS` keeps its event loop from turning, `health` prints the broker's report. SIGTERM ends it in good order,
// the end of its input at once: it does not outlive who started it.
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { type BrokerDriver, createBroker, type MessagingError, type Progress } from '@core-backend/messaging'
import { postgresDriver } from '@core-backend/messaging/postgres'
import { createInbox } from '@core-backend/outbox'
import pg from 'pg'
import { monotonic, openJournal } from './messaging-journal.ts'

export interface MemberPlan {
  url: string
  folder: string
  topic: string
  group: string
  concurrency: number
  leaseMs: number
  statementMs: number
  flushMs: number
  /** A handler takes up to this long. */
  handlerMs: number
  /** One in so many takes `slowMs`, unless its signal aborts. */
  slowEvery: number
  slowMs: number
  /** Of runs that throw. */
  failing: number
  /** Of runs that commit a row in `effects` through an inbox, and one in `tries` without, and end the process before their message is acknowledged. 0: no rows are written. */
  fatal: number
  /** The message that ends the process as soon as it is started. */
  poison: string
}

const plan = JSON.parse(process.argv[2]!) as MemberPlan
const journal = openJournal(plan.folder)
const pool = new pg.Pool({ connectionString: plan.url })
pool.on('error', () => undefined)
const inbox = createInbox({ schema: 'chaos' })
const epochs = new Map<number, number>()
const fetchedAt = new Map<string, number>()
const die = (): void => void process.kill(process.pid, 'SIGKILL')

/** The driver as it is, with what it says about the topic written down; and a settlement more, a lease after a partition was lost, as a zombie might send it. */
function witnessed(driver: BrokerDriver): BrokerDriver {
  return {
    ...driver,
    consume: async (topic, group, owner) => {
      if (topic !== plan.topic) return driver.consume(topic, group, owner)
      const last = new Map<number, Progress>()
      const consumption = await driver.consume(topic, group, {
        assigned: (partition, epoch) => {
          epochs.set(partition, epoch)
          last.delete(partition)
          journal({ e: 'assigned', partition, epoch })
          owner.assigned(partition, epoch)
        },
        revoking: (partition, deadlineMs) => owner.revoking(partition, deadlineMs),
        renewed: (error) => owner.renewed(error),
        lost: (partition, reason) => {
          journal({ e: 'lost', partition, epoch: epochs.get(partition)!, reason })
          owner.lost(partition, reason)
          const progress = last.get(partition)
          if (progress) void probe(progress)
        },
      })
      const probe = async (progress: Progress): Promise<void> => {
        const { partition, epoch } = progress
        for (;;) {
          await sleep(plan.leaseMs, undefined, { ref: false })
          try {
            const [answer] = await consumption.settle([progress])
            return journal({ e: answer === 'stale' ? 'refused' : 'accepted', partition, epoch, probe: true })
          } catch (error) {
            if (!(error as MessagingError).retryable) return
          }
        }
      }
      return {
        ...consumption,
        fetch: async (wants, options) => {
          const deliveries = await consumption.fetch(wants, options)
          const at = monotonic()
          for (const { partition, position } of deliveries) fetchedAt.set(`${partition} ${position}`, at)
          return deliveries
        },
        settle: async (progress) => {
          const answers = await consumption.settle(progress)
          answers.forEach((answer, i) => {
            const { partition, epoch, watermark, above } = progress[i]!
            if (answer === 'stale') return journal({ e: 'refused', partition, epoch, probe: false })
            last.set(partition, progress[i]!)
            journal({
              e: 'settled',
              partition,
              epoch,
              watermark: watermark && Number(watermark.position),
              above: above.map(({ position }) => Number(position)),
            })
          })
          return answers
        },
      }
    },
  }
}

/** Both rows in one transaction: the inbox lets the first pass once, the second tells how often the handler got here. True the first time. */
async function effect(message: { id: string; timestamp: number }): Promise<boolean> {
  const client = await pool.connect()
  try {
    await client.query('BEGIN')
    await inbox.once(client, message, 'chaos', (tx) => tx.query('INSERT INTO chaos.effects (id) VALUES ($1)', [message.id]))
    const { rows } = await client.query<{ first: boolean }>(
      'INSERT INTO chaos.tries (id) SELECT $1 RETURNING NOT EXISTS (SELECT FROM chaos.tries WHERE id = $1) AS first',
      [message.id],
    )
    await client.query('COMMIT')
    client.release()
    return rows[0]!.first
  } catch (error) {
    client.release(true)
    throw error
  }
}

const driver = witnessed(postgresDriver({ client: pool, leaseMs: plan.leaseMs, statementMs: plan.statementMs }))
const broker = createBroker(driver, {
  hooks: {
    onError: ({ error, message }) => {
      const { code, message: text } = error as MessagingError
      if (!message) journal({ e: 'error', code, text })
    },
  },
})
let started = 0
const subscription = await broker.subscribe(
  plan.topic,
  {
    group: plan.group,
    concurrency: plan.concurrency,
    flushMs: plan.flushMs,
    drainMs: 3_000,
    // So many that chance makes no dead letter.
    retry: { maxAttempts: 30, initialDelayMs: 5, maxDelayMs: 20 },
  },
  async (message, context) => {
    const { id, key = '' } = message
    const { partition } = context
    const position = Number(context.position)
    const epoch = epochs.get(partition)!
    const slow = plan.slowEvery > 0 && ++started % plan.slowEvery === 0
    journal({ e: 'start', id, partition, epoch, position, attempt: context.attempt, slow })
    if (id === plan.poison) return die()
    if (Buffer.from(message.value).toString() !== id) throw new TypeError(`${id} came with the body of another message`)
    const { signal } = context
    signal.addEventListener('abort', () => journal({ e: 'aborted', id, partition, epoch, code: (signal.reason as MessagingError).code }), { once: true })
    await sleep(slow ? plan.slowMs : Math.random() * plan.handlerMs, undefined, { signal: slow ? signal : undefined })
    if (Math.random() < plan.failing) throw new Error('by chance')
    // Each message kills at most once: it is no poison.
    if (plan.fatal > 0 && (await effect(message)) && Math.random() < plan.fatal) return die()
    const place = `${partition} ${context.position}`
    journal({ e: 'done', id, key, seq: Number(id.split('/')[1]), partition, epoch, position, fetchedAt: fetchedAt.get(place)! })
    fetchedAt.delete(place)
  },
)

const input = createInterface({ input: process.stdin })
input.once('close', () => process.exit(1))
input.on('line', (line) => {
  const [command, ms] = line.split(' ')
  if (command === 'health')
    void broker.health().then(({ status, error }) => console.log(`health ${status} ${(error as MessagingError | undefined)?.code ?? ''}`))
  for (const until = performance.now() + Number(ms ?? 0); performance.now() < until;);
})
process.once('SIGTERM', () => {
  void (async () => {
    await subscription.close()
    await broker.close()
    await pool.end()
    journal({ e: 'closed' })
    process.exit(0)
  })()
})
console.log('ready')
