import type { Pool } from 'pg'
import { openDatabase } from '../../../../apps/activelog/src/infrastructure/database.ts'
import type { Case, Group } from '../../../../bench/kit.ts'
import { boss, graphile, quiet } from '../../../../bench/job-queues.ts'
import type { Transaction } from '../src/index.ts'
import { freshPool, window } from '../../../../bench/postgres.ts'
import { inTransaction } from '../../../../tests/kit/postgres.ts'
import { body, createHandTable, event, headers, ours, peers, text } from './tables.ts'

/** What makes the event go along. */
type HandOff = (tx: Transaction, i: number) => Promise<unknown>

/** ActiveLog's POST: the idempotency row and the activity, at 16 connections. `together`: through ActiveLog's own pool, no statement waits for the answer to the one before. */
const business = (about: string, prepare: (pool: Pool, url: string) => Promise<HandOff>, { together = false } = {}): Case => ({
  about,
  run: async () => {
    const { pool, url } = await freshPool(16)
    await pool.query(`
      CREATE TABLE idempotency (tenant text, key text, body_hash bytea NOT NULL, response json, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant, key));
      CREATE TABLE activity (id uuid PRIMARY KEY, user_id integer NOT NULL, type text NOT NULL, title text NOT NULL, duration_minutes integer NOT NULL, notes text,
        activity_date date NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), version integer NOT NULL DEFAULT 1);
      CREATE INDEX ON activity (user_id, activity_date)`)
    const handOff = await prepare(pool, url)
    const hash = Buffer.alloc(32, 7)
    const statements: readonly HandOff[] = [
      (tx, i) =>
        tx.query('INSERT INTO idempotency (tenant, key, body_hash, response) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING key', [
          'acme',
          `key-${i}`,
          hash,
          text,
        ]),
      (tx, i) =>
        tx.query(
          'INSERT INTO activity (id, user_id, type, title, duration_minutes, notes, activity_date) VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6) RETURNING id',
          [i % 500, 'running', 'Morning run', 45, 'x'.repeat(120), '2026-11-21'],
        ),
      handOff,
    ]
    const pipelined = openDatabase(url, { name: 'bench', max: 16 })
    const post = together
      ? (i: number): Promise<unknown> => pipelined.transaction((tx) => Promise.all(statements.map((send) => send(tx, i))))
      : (i: number): Promise<unknown> =>
          inTransaction(pool, async (tx) => {
            for (const send of statements) await send(tx, i)
          })
    // A service runs for longer than it takes to compile.
    await window(4_000, 16, (i) => post(1_000_000 + i))
    return window(12_000, 16, post)
  },
})

const aboutHand = 'id, topic, key, body and headers into a table with a primary key'
const insertByHand = async (pool: Pool): Promise<HandOff> => {
  await createHandTable(pool)
  return (tx, i) =>
    tx.query('INSERT INTO hand (topic, key, value, headers) VALUES ($1, $2, $3, $4)', ['activities', `activity-${i % 1_000}`, body, JSON.stringify(headers)])
}

export const adding: Group = {
  title: "Business transaction: ActiveLog's POST (idempotency row, activity) at 16 connections",
  unit: 'transactions/s',
  better: 'higher',
  baseline: 'without an event',
  goal: 'at least 0.85 with outbox.add',
  cases: {
    'without an event': business('what the others are measured against', async () => async () => undefined),
    'outbox.add': business('one message', async (pool) => {
      const outbox = await ours(pool)
      return (tx, i) => outbox.add(tx, event(i))
    }),
    'outbox.add, notify': business('one message, and NOTIFY at commit', async (pool) => {
      const outbox = await ours(pool, { notify: true })
      return (tx, i) => outbox.add(tx, event(i))
    }),
    'INSERT by hand': business(aboutHand, insertByHand),
    'pg-boss, send': business('a job row', async (_, url) => {
      const made = await boss(peers, url)
      return (tx) => made.send('bench', { text }, { db: { executeSql: (sql: string, values?: unknown[]) => tx.query(sql, values) } })
    }),
    'graphile-worker, add_job': business('a job row; NOTIFY by trigger', async (pool) => {
      const utils = await (await graphile(peers)).makeWorkerUtils({ pgPool: pool, ...quiet })
      await utils.migrate()
      return (tx) => tx.query(`SELECT graphile_worker.add_job('bench', $1::json)`, [JSON.stringify({ text })])
    }),
  },
}

export const addingTogether: Group = {
  title: 'The same transaction, its statements prepared and sent without waiting for each other, as ActiveLog sends them',
  unit: 'transactions/s',
  better: 'higher',
  baseline: 'without an event',
  goal: 'at least 0.85 with outbox.add',
  cases: {
    'without an event': business('what the other is measured against', async () => async () => undefined, { together: true }),
    'outbox.add': business(
      'one message',
      async (pool) => {
        const outbox = await ours(pool)
        return (tx, i) => outbox.add(tx, event(i))
      },
      { together: true },
    ),
    'INSERT by hand': business(aboutHand, insertByHand, { together: true }),
  },
}
