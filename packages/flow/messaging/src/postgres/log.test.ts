import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, test } from 'node:test'
import { openDatabase } from '@core-backend/testkit/postgres'
import { never, series } from '../postgres.fixture.ts'
import { postgresDriver } from '../postgres.ts'

const db = await openDatabase('pg18')
after(() => db.close())

test('what a page leaves out for its weight is not read: its length alone is', async () => {
  const driver = postgresDriver({ client: db.client })
  await driver.admin.createTopic('letters', { partitions: 1, keep: true, maxAgeMs: undefined })
  const value = randomBytes(990_000)
  for (const message of series('letters', 20, '', { value })) await driver.publish([message], { signal: never })
  assert.equal((await driver.log.read('letters', 0, undefined, 20, 4_194_304)).length, 4)
  assert.equal((await driver.log.read('letters', 0, '3', 20, 1)).length, 1)
  assert.equal((await driver.log.read('letters', 0, '3', 2, Infinity)).length, 2)
  const explained = await db.client.query(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM messaging.read_log(1, 0, 20, 4194304)`)
  const [{ Plan: plan }] = (explained.rows as [{ 'QUERY PLAN': [{ Plan: Record<string, number> }] }])[0]['QUERY PLAN']
  assert.equal(plan['Actual Rows'], 4)
  // Each body is in some 500 blocks.
  const blocks = plan['Shared Hit Blocks']! + plan['Shared Read Blocks']!
  assert.ok(blocks < 400, `${blocks} blocks`)
  await driver.close()
})
