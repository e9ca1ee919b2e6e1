// A relay in a process of its own is killed between the broker's confirm and the delete, again and again.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Pool } from 'pg'
import { startProgram } from '../../../../tests/kit/processes.ts'
import { waitUntil } from '../../../../tests/kit/wait-until.ts'
import { message, schemas } from './harness.test.ts'
import { createOutbox, relay } from './index.ts'

const kills = 4
const total = 400

if (process.argv[2] === 'relay') await runRelay(process.argv[3]!, process.argv[4]!)
else
  test('SIGKILL between confirm and delete: nothing is lost, ids repeat, every key in order', { timeout: 120_000 }, async (t) => {
    const { open, close } = schemas('pg18')
    t.after(close)
    const h = await open()
    // The broker is a table: what is committed there is confirmed, and each row tells how often and in which order.
    await h.db.query(`CREATE TABLE ${h.schema}.broker (n bigserial, id text, key text, value text)`)
    for (let i = 0; i < total; i += 20)
      await h.transaction((tx) =>
        h.outbox.add(
          tx,
          Array.from({ length: 20 }, (_, j) => message(`k${j % 5}`, String(i / 5 + Math.floor(j / 5)))),
        ),
      )
    for (let n = 0; n <= kills; n++) {
      const child = startProgram(import.meta.filename, {
        args: ['relay', h.database.url!, h.schema],
        env: { DIE: n < kills ? 'after the confirm' : undefined },
      })
      t.after(() => child.close())
      const { signal } = await (n < kills ? child.exited : waitUntil(async () => (await h.outbox.counts(h.db)).pending === 0).then(() => ({ signal: 'none' })))
      assert.equal(signal, n < kills ? 'SIGKILL' : 'none', child.lines.join('\n'))
      if (n < kills) assert.ok((await h.outbox.counts(h.db)).pending > 0)
    }
    const { rows } = await h.db.query(`SELECT id, key, value FROM ${h.schema}.broker ORDER BY n`)
    const stored = rows as { id: string; key: string; value: string }[]
    assert.equal(new Set(stored.map((row) => row.id)).size, total)
    assert.ok(
      stored.length > total && stored.length <= total + kills * 50,
      `${stored.length - total} duplicates, at most a batch of 50 for each of ${kills} kills`,
    )
    for (let k = 0; k < 5; k++)
      assert.deepEqual(
        [...new Set(stored.filter((row) => row.key === `k${k}`).map((row) => row.value))],
        Array.from({ length: total / 5 }, (_, i) => String(i)),
      )
  })

async function runRelay(url: string, schema: string): Promise<void> {
  const pool = new Pool({ connectionString: url })
  let batches = 0
  const moving = relay({
    db: pool,
    outbox: createOutbox({ schema }),
    batch: 50,
    leaseMs: 300,
    pollMs: 5,
    publisher: {
      publishBatch: async (messages) => {
        const values = messages.map((m) => [m.id, m.key, Buffer.from(m.value).toString()])
        await pool.query(
          `INSERT INTO ${schema}.broker (id, key, value) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])`,
          [0, 1, 2].map((i) => values.map((v) => v[i])),
        )
        if (process.env['DIE'] && ++batches === 2) process.kill(process.pid, 'SIGKILL')
        return messages.map(() => ({ status: 'stored' }))
      },
    },
  })
  await moving.start()
}
