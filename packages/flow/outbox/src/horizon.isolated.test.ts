// What the horizon believes of a server that starts again while a prepared transaction holds an id: a cluster of its own, with room for one.
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { Client, Pool } from 'pg'
import { waitUntil } from '../../../../tests/kit/wait-until.ts'
import { functionalSettings, inTransaction } from '../../../../tests/kit/postgres.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../../../apps/activelog/src/infrastructure/embedded-postgres.ts'
import { message } from './harness.test.ts'
import { createHorizon } from './horizon.ts'
import { createOutbox } from './index.ts'

test('a prepared transaction is not taken for gone when the server starts again, or recovers from a crash', { timeout: 120_000 }, async (t) => {
  const { outbox, horizon, cluster } = await open(t, { fsync: 'on', max_prepared_transactions: '5' })
  const look = async (times: number): Promise<number> => {
    for (let i = 0; i < times; i++) {
      await inTransaction(cluster.pool, (tx) => outbox.add(tx, message('k', 'x')))
      horizon.look(await outbox.store.queue.horizon(cluster.pool))
    }
    horizon.read([0], [], false)
    return horizon.low(0)
  }
  /** Leaves a prepared transaction behind that has an id below the number which waits for it alone. */
  const prepare = async (name: string): Promise<{ id: number; pid: number }> => {
    const [before, writer] = [new Client(cluster.server.url), new Client(cluster.server.url)]
    for (const client of [before, writer]) {
      client.on('error', () => {}) // the server was killed
      await client.connect()
      await client.query('BEGIN')
      await outbox.add(client, message('k', 'x'))
      await look(2)
    }
    const { rows } = await writer.query<{ id: string; pid: number }>("SELECT currval('outbox_id_seq')::text AS id, pg_backend_pid() AS pid")
    await before.query('COMMIT')
    await before.end()
    await look(4)
    await writer.query(`PREPARE TRANSACTION '${name}'`)
    const id = Number(rows[0]!.id)
    assert.ok((await look(4)) < id, 'prepared')
    return { id, pid: rows[0]!.pid }
  }

  const one = await prepare('one')
  await cluster.stop()
  await cluster.start()
  assert.ok((await look(4)) < one.id, 'started again')
  await cluster.pool.query("COMMIT PREPARED 'one'")
  assert.ok((await look(4)) > one.id, 'committed')

  const two = await prepare('two')
  process.kill(two.pid, 'SIGKILL')
  const recovered = (): Promise<boolean> =>
    outbox.store.queue.horizon(cluster.pool).then(
      ({ writers }) => writers.some((name) => name.startsWith('-1/')),
      () => false,
    )
  await waitUntil(recovered, { what: 'the server to recover' })
  assert.ok((await look(4)) < two.id, 'recovered')
  await cluster.pool.query("COMMIT PREPARED 'two'")
  assert.ok((await look(4)) > two.id, 'committed')
})

test('ids that begin anew are seen, though more were given out since than before', async (t) => {
  const { outbox, horizon, cluster } = await open(t)
  const { pool } = cluster
  const look = async (): Promise<number> => {
    horizon.look(await outbox.store.queue.horizon(pool))
    horizon.read([0], [], false)
    return horizon.low(0)
  }
  const add = (n: number): Promise<unknown> =>
    inTransaction(pool, (tx) =>
      outbox.add(
        tx,
        Array.from({ length: n }, () => message('k', 'x')),
      ),
    )
  await add(10)
  for (let i = 0; i < 3; i++) await look()
  assert.equal(await look(), 10)
  await pool.query('TRUNCATE outbox RESTART IDENTITY')
  await add(20)
  assert.equal(await look(), 0)
})

/** An outbox on a cluster that can be stopped and started again, and what is believed of it. */
async function open(t: TestContext, more: Record<string, string> = {}) {
  const dataDir = await mkdtemp(join(tmpdir(), 'horizon-'))
  const settings = { ...functionalSettings, ...more }
  const start = async (): Promise<{ server: EmbeddedPostgres; pool: Pool }> => {
    const server = await startEmbeddedPostgres({ dataDir, settings })
    const pool = new Pool({ connectionString: server.url })
    pool.on('error', () => {}) // the server was stopped
    return { server, pool }
  }
  const cluster = {
    ...(await start()),
    start: async () => Object.assign(cluster, await start()),
    stop: async () => {
      await cluster.pool.end()
      await cluster.server.close()
    },
  }
  t.after(async () => {
    await cluster.stop()
    await rm(dataDir, { recursive: true })
  })
  const outbox = createOutbox()
  await cluster.pool.query(outbox.schema())
  return { outbox, horizon: createHorizon(), cluster }
}
