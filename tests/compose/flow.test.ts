// The packages import each other nowhere; here they are put together, in types and in one small run.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createEventProcessor, createWorker, defineEvent, eventPublisher, type MessagePublisher, type MessageSubscriber } from '@core-backend/events'
import { spyPublisher } from '@core-backend/events/testing'
import { type Broker, createBroker, memoryDriver, type Middleware } from '@core-backend/messaging'
import { createInbox, createOutbox, memoryStore, poolTransaction, relay, type RelayPublisher } from '@core-backend/outbox'
import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import { z } from 'zod'
import { waitUntil } from '../kit/wait-until.ts'

test('what one package gives is what the other takes, by shape', () => {
  const fits = (broker: Broker, pool: pg.Pool, client: pg.PoolClient, lite: PGlite): unknown[] => [
    broker satisfies MessagePublisher,
    broker satisfies MessageSubscriber,
    broker satisfies RelayPublisher,
    eventPublisher(broker),
    eventPublisher(createOutbox().publisher(client)),
    createEventProcessor({ inbox: createInbox().runner((fn) => lite.transaction((tx) => fn(tx))) }),
    createEventProcessor({ inbox: createInbox().runner(poolTransaction(pool)) }),
    relay({ db: pool, outbox: createOutbox(), publisher: broker }),
    relay({ db: lite, outbox: createOutbox(), publisher: broker }),
    createInbox().middleware((fn) => lite.transaction((tx) => fn(tx)), { handler: 'h' }) satisfies Middleware,
    spyPublisher(),
    // @ts-expect-error a pool is no transaction: each statement would be one of its own
    createOutbox().publisher(pool),
  ]
  assert.equal(typeof fits, 'function')
})

test('a change, its event, the relay, the broker and a handler whose effect happens once', async () => {
  const db = await PGlite.create()
  const outbox = createOutbox()
  const inbox = createInbox()
  await db.exec('CREATE TABLE walk (id text PRIMARY KEY); CREATE TABLE stats (walks integer); INSERT INTO stats VALUES (0)')
  await db.query(outbox.schema())
  await db.query(inbox.schema())
  const WalkEnded = defineEvent('walk.ended', { version: 1, schema: z.object({ id: z.string() }), topic: 'walks', aggregateId: (walk) => walk.id })

  const broker = createBroker(memoryDriver())
  const processor = createEventProcessor({ inbox: inbox.runner((fn) => db.transaction((tx) => fn(tx))) }).on(
    WalkEnded,
    async (_, ctx) => void (await ctx.tx.query('UPDATE stats SET walks = walks + 1')),
    { name: 'stats' },
  )
  const worker = createWorker({ subscriber: broker, processor, group: 'stats' })
  await worker.start()
  // This broker hears everything twice.
  const twice: RelayPublisher = {
    publish: async (message) => {
      await broker.publish(message)
      return broker.publish(message)
    },
  }
  const moving = relay({ db, outbox, publisher: twice })
  await moving.start()

  for (let i = 0; i < 20; i++)
    await db.transaction(async (tx) => {
      await tx.query('INSERT INTO walk VALUES ($1)', [`w${i}`])
      await eventPublisher(outbox.publisher(tx)).publish(WalkEnded({ id: `w${i}` }))
    })
  moving.wake()

  await waitUntil(async () => (await broker.lag('walks', 'stats')).messages === 0 && broker.stats().acked === 40)
  assert.deepEqual((await db.query('SELECT walks FROM stats')).rows, [{ walks: 20 }])
  await moving.close()
  await worker.stop()
  await broker.close()
  await db.close()
})

test('an event whose handler undoes a part of what it did takes nothing from the other handlers: they run apart', async () => {
  const db = await PGlite.create()
  const inbox = createInbox()
  await db.exec('CREATE TABLE done (handler text)')
  await db.query(inbox.schema())
  const WalkEnded = defineEvent('walk.ended', { version: 1, schema: z.object({ id: z.string() }), topic: 'walks', aggregateId: (walk) => walk.id })
  const reasons: unknown[] = []
  const processor = createEventProcessor({
    inbox: inbox.runner((fn) => db.transaction((tx) => fn(tx))),
    sharedTransaction: true,
    hooks: { onSeparated: ({ error }) => void reasons.push((error as Error).message) },
  })
    .on(
      WalkEnded,
      async (_, { tx }) => {
        const optional = inbox.once(tx, 'optional', 'a', async () => {
          await tx.query("INSERT INTO done VALUES ('a, undone')")
          throw new Error('optional')
        })
        await optional.catch(() => undefined)
        await tx.query("INSERT INTO done VALUES ('a')")
      },
      { name: 'a' },
    )
    .on(WalkEnded, async (_, { tx }) => void (await tx.query("INSERT INTO done VALUES ('b')")), { name: 'b' })
  await processor.processEvent(WalkEnded({ id: 'w1' }))
  assert.deepEqual((await db.query('SELECT handler FROM done ORDER BY 1')).rows, [{ handler: 'a' }, { handler: 'b' }])
  assert.deepEqual(reasons, ['once would take effect for all handlers that share the transaction: it is for handlers in a transaction of their own'])
  await db.close()
})

test("behind the inbox's middleware a handler has the broker's whole context, and the transaction", async () => {
  const memory = memoryStore()
  const outbox = createOutbox({ store: memory.outbox })
  const broker = createBroker(memoryDriver())
  const once = createInbox({ store: memory.inbox }).middleware(memory.transaction, { handler: 'h' })
  const seen: unknown[] = []
  await broker.subscribe(
    'walks',
    { group: 'stats' },
    once(async (_, ctx) => {
      await outbox.add(ctx.tx, { topic: 'effects', value: new Uint8Array() })
      seen.push(ctx.attempt, ctx.signal.aborted)
      ctx.skip()
    }),
  )
  for (let delivery = 1; delivery <= 2; delivery++) await broker.publish({ id: 'w1', topic: 'walks', value: new Uint8Array() })
  await waitUntil(() => broker.stats().acked + broker.stats().skipped === 2)
  assert.deepEqual(seen, [1, false])
  assert.equal(broker.stats().skipped, 1)
  assert.equal((await outbox.counts(memory)).pending, 1)
  await broker.close()
})

test("ctx.retry and ctx.deadLetter behind the inbox's middleware lose nothing: what the run did is undone, and the next one handles the message", async () => {
  const memory = memoryStore()
  const outbox = createOutbox({ store: memory.outbox })
  const broker = createBroker(memoryDriver())
  const once = createInbox({ store: memory.inbox }).middleware(memory.transaction, { handler: 'h' })
  const attempts: number[] = []
  await broker.subscribe(
    'walks',
    { group: 'stats' },
    once(async (_, ctx) => {
      attempts.push(ctx.attempt)
      await outbox.add(ctx.tx, { topic: 'effects', value: new Uint8Array() })
      if (attempts.length === 1) ctx.retry({ delayMs: 1 })
      if (attempts.length === 2) ctx.deadLetter('not yet')
    }),
  )
  await broker.publish({ id: 'w1', topic: 'walks', value: new Uint8Array() })
  const letters = broker.deadLetters('walks', 'stats')
  await waitUntil(async () => (await letters.count()) === 1)
  assert.equal((await outbox.counts(memory)).pending, 0)
  await letters.replay({ filter: () => true })
  await waitUntil(() => broker.stats().acked === 1)
  assert.deepEqual(attempts, [1, 2, 1])
  assert.equal((await outbox.counts(memory)).pending, 1)
  await broker.close()
})
