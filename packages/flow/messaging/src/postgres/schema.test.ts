import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { openDatabase } from '@core-backend/testkit/postgres'
import { never, outgoing } from '../postgres.fixture.ts'
import { postgresDriver, schema } from '../postgres.ts'

const db = await openDatabase('pg18', { max: 10 })
after(() => db.close())

let schemas = 0
const freshSchema = (): string => `t${++schemas}`
const one = { partitions: 1, keep: false, maxAgeMs: undefined }
const four = { partitions: 4, keep: false, maxAgeMs: undefined }
const sql = (text: string): Promise<unknown> => db.client.query(text)

test('five processes that set the tables up at the same time all succeed', async () => {
  const name = freshSchema()
  const drivers = Array.from({ length: 5 }, () => postgresDriver({ client: db.client, schema: name }))
  await Promise.all(drivers.map((driver) => driver.admin.createTopic('orders', four)))
  assert.deepEqual(await drivers[0]!.admin.topics(), [{ topic: 'orders', spec: four }])
  await Promise.all(drivers.map((driver) => driver.close()))
})

test("setup: 'expect' names what is missing, and takes what schema() makes", async () => {
  const name = freshSchema()
  const driver = postgresDriver({ client: db.client, schema: name, setup: 'expect' })
  await assert.rejects(driver.admin.topics(), {
    code: 'ERR_MESSAGING_TOPOLOGY_MISMATCH',
    retryable: false,
    message: /lacks the tables version, topics, partitions, messages/,
  })
  await sql(schema({ schema: name }))
  assert.deepEqual(await driver.admin.topics(), [])
  await sql(`DROP TABLE ${name}.marks`)
  const second = postgresDriver({ client: db.client, schema: name, setup: 'expect' })
  await assert.rejects(second.admin.topics(), { message: /lacks the tables marks:/ })
  await driver.close()
})

test('tables of a newer version are refused', async () => {
  const name = freshSchema()
  await sql(schema({ schema: name }))
  await sql(`UPDATE ${name}.version SET version = 99`)
  await assert.rejects(postgresDriver({ client: db.client, schema: name }).admin.topics(), {
    code: 'ERR_MESSAGING_TOPOLOGY_MISMATCH',
    message: /has version 99/,
  })
})

test('a schema name is checked and quoted, and so are the other options', async () => {
  for (const bad of ['', 'a"b', 'x'.repeat(49), '1a', 'a b']) assert.throws(() => postgresDriver({ client: db.client, schema: bad }), RangeError, bad)
  assert.throws(() => postgresDriver({ client: db.client, leaseMs: 0 }), RangeError)
  assert.throws(() => postgresDriver({ client: db.client, member: 'a b' }), RangeError)
  assert.throws(() => postgresDriver({ client: undefined as never }), TypeError)
  const driver = postgresDriver({ client: db.client, schema: 'Select-me' })
  await driver.admin.createTopic('orders', one)
  const [result] = await driver.publish([outgoing('orders', 'a')], { signal: never })
  assert.equal(result!.status, 'stored')
  await driver.close()
})

test('no function that forbids plans lets them be compiled: before PostgreSQL 18, what is forbidden counts as immensely costly', async () => {
  const name = freshSchema()
  await sql(schema({ schema: name }))
  const { rows } = await db.client.query(
    `SELECT proname AS name, 'jit=off' = ANY (proconfig) AS plain FROM pg_catalog.pg_proc WHERE pronamespace = $1::regnamespace AND 'enable_seqscan=off' = ANY (proconfig) ORDER BY 1`,
    [name],
  )
  assert.deepEqual(
    rows,
    ['fetch', 'maintain', 'read', 'read_log'].map((name) => ({ name, plain: true })),
  )
})
