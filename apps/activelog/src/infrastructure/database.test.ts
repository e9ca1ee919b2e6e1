import assert from 'node:assert/strict'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { createServer, Socket } from 'node:net'
import { test } from 'node:test'
import { openDatabase as openTestDatabase } from '@core-backend/testkit/postgres'
import { skipUnless } from '@core-backend/testkit/services'
import { tcpProxy } from '@core-backend/testkit/tcp-proxy'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { freshDatabase } from './database.fixture.ts'
import { isUnavailable, openDatabase, reachable } from './database.ts'

test('statements of a turn leave in one write, BEGIN among them, and each gets its own answer', async (t) => {
  const test = await openTestDatabase('pg18')
  const db = openDatabase(test.url!, { name: 'test', max: 1 })
  t.after(async () => {
    await db.close()
    await test.close()
  })
  const connect = t.mock.method(Socket.prototype, 'connect')
  await db.query('SELECT 1')
  connect.mock.restore()
  assert.equal(connect.mock.callCount(), 1)
  const stream = connect.mock.calls[0]!.this as Socket
  let writes = 0
  for (const method of ['_write', '_writev'] as const) {
    const real = stream[method]!.bind(stream) as (...given: unknown[]) => void
    stream[method] = (...given: unknown[]) => {
      writes++
      real(...given)
    }
  }
  const results = await db.transaction((tx) =>
    Promise.allSettled([tx.query('SELECT $1::int AS n', [1]), tx.query('SELECT $1::int AS n', [2]), tx.query('SELECT now() IS NOT NULL AS n')]),
  )
  assert.deepEqual(
    results.map((result) => result.status === 'fulfilled' && result.value.rows),
    [[{ n: 1 }], [{ n: 2 }], [{ n: true }]],
  )
  assert.equal(writes, 2, 'one for the statements, one for COMMIT')
  await db.transaction(async (tx) => {
    await tx.query('SELECT $1::int AS n', [3])
    await tx.query('SELECT $1::int AS n', [4])
  })
  assert.equal(writes, 5, 'what waits for an answer is a write of its own')
  await assert.rejects(
    db.transaction((tx) => Promise.all([tx.query('SELECT 1 / 0'), tx.query('SELECT $1::int AS n', [5])])),
    { code: '22012' },
  )
  assert.deepEqual((await db.query('SELECT 1 AS n')).rows, [{ n: 1 }])
})

test('a statement that comes after the end of its transaction is refused: it would run in the next one on that connection', async (t) => {
  const db = await freshDatabase(t)
  for (const failing of [true, false]) {
    let late: Promise<unknown> | undefined
    const ended = Promise.withResolvers<void>()
    const running = db.transaction(async (tx) => {
      late = ended.promise.then(() => tx.query('SELECT 1'))
      late.catch(() => {})
      if (failing) throw new Error('mine')
    })
    await (failing ? assert.rejects(running, /mine/) : running)
    ended.resolve()
    await assert.rejects(late!, { name: 'TypeError', message: /is an await missing/ })
  }
})

test('of statements that were sent together the one that failed is told, not those that failed because of it', async (t) => {
  const test = await openTestDatabase('pg18')
  const db = openDatabase(test.url!, { name: 'test' })
  t.after(async () => {
    await db.close()
    await test.close()
  })
  const running = db.transaction(async (tx) => {
    tx.query('SELECT FROM missing').catch(() => {})
    await tx.query('SELECT 1')
  })
  await assert.rejects(running, { code: '42P01' })
})

test('a connection that goes silent fails what waits for it, and the server gives its locks free', async (t) => {
  const test = await openTestDatabase('pg18')
  const proxy = await tcpProxy(Number(new URL(test.url!).port))
  const db = openDatabase(Object.assign(new URL(test.url!), { port: String(proxy.port) }).href, { name: 'test', silenceMs: 2_000 })
  t.after(async () => {
    await proxy.close()
    await db.close()
    await test.close()
  })
  const failures: unknown[] = []
  const note = (error: unknown): void => void failures.push(error)
  await db.query('SELECT 1')
  const transaction = db.transaction(async (tx) => {
    await tx.query('SELECT pg_advisory_xact_lock(1)')
    proxy.stall('both')
    await tx.query('SELECT 1')
  })
  transaction.catch(note)
  await waitUntil(() => failures.length === 1, { what: 'the transaction' })
  await waitUntil(async () => ((await test.client.query('SELECT pg_try_advisory_lock(1) AS free')).rows as { free: boolean }[])[0]!.free, { what: 'the lock' })

  proxy.pass()
  await waitUntil(() => db.query('SELECT 1').catch(() => undefined), { what: 'a connection' })
  proxy.stall('both')
  db.query('SELECT 1').catch(note)
  await waitUntil(() => failures.length === 2, { what: 'the statement' })
  assert.ok(failures.every(isUnavailable), String(failures))
  proxy.pass()
  await waitUntil(() => db.query('SELECT 1').catch(() => undefined), { what: 'an answer' })
})

test('a commit whose answer is lost is told from one that was not sent, or that the server refused', async (t) => {
  const test = await openTestDatabase('pg18')
  const proxy = await tcpProxy(Number(new URL(test.url!).port))
  const db = openDatabase(Object.assign(new URL(test.url!), { port: String(proxy.port) }).href, { name: 'test' })
  t.after(async () => {
    await proxy.close()
    await db.close()
    await test.close()
  })
  await test.client.query('CREATE TABLE one (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)')
  const insert = db.transaction(async (tx) => {
    await tx.query('INSERT INTO one VALUES (1)')
    proxy.stall('toClient')
  })
  insert.catch(() => {})
  await waitUntil(async () => (await test.client.query('SELECT FROM one')).rows.length === 1)
  proxy.reset()
  proxy.pass()
  await assert.rejects(insert, (error: Error) => (error as { code?: string }).code === 'ERR_ACTIVELOG_COMMIT_LOST' && isUnavailable(error.cause))

  await assert.rejects(
    db.transaction((tx) => tx.query('INSERT INTO one VALUES (1)')),
    { code: '23505' },
  )
  const early = db.transaction(async (tx) => {
    proxy.reset()
    await tx.query('SELECT 1')
  })
  await assert.rejects(early, (error: Error) => isUnavailable(error))
})

test('a server that admits and then says nothing is told by name, and waited for no longer than is asked', async (t) => {
  // AuthenticationOk, ReadyForQuery.
  const silent = createServer(
    (socket) => void socket.on('error', () => {}).once('data', () => socket.write(Buffer.from('5200000008000000005a0000000549', 'hex'))),
  )
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.after(() => silent.close())
  const url = `postgres://u:secret@127.0.0.1:${(silent.address() as { port: number }).port}/db`
  await assert.rejects(reachable(url, { patienceMs: 200 }), {
    code: 'ERR_ACTIVELOG_DATABASE',
    message: /^Cannot use the database \S+: it did not answer within 200 ms$/,
  })
  const stopping = new AbortController()
  silent.once('connection', () => stopping.abort())
  await assert.rejects(reachable(url, stopping), { code: 'ERR_ACTIVELOG_DATABASE' })
})

test(
  'a pooler in transaction mode is refused by name, quiet or busy: statements that one connection prepared would run on others',
  { skip: skipUnless('pgbouncer') },
  async () => {
    const refusal = { code: 'ERR_ACTIVELOG_DATABASE', message: /^Cannot use the database \S+: a pooler in transaction mode/ }
    await using behind = await openTestDatabase('pgbouncer')
    await assert.rejects(reachable(behind.url!), refusal)
    await using server = await openTestDatabase('pg18')
    for (const [database, check] of [
      [behind, () => assert.rejects(reachable(behind.url!), refusal)],
      [server, () => reachable(server.url!)],
    ] as const) {
      let busy = true
      const others = [1, 2, 3, 4].map(async () => {
        while (busy) await database.transaction((tx) => tx.query('SELECT pg_sleep(random() * 0.002)'))
      })
      try {
        for (let n = 0; n < 20; n++) await check()
      } finally {
        busy = false
        await Promise.all(others)
      }
    }
  },
)

test('one name is one text in every process', async () => {
  await using server = await openTestDatabase('pg18')
  const db = openDatabase(server.url!, { name: 'test', max: 1 })
  await db.query('SELECT $1::int AS n', [1])
  const { rows } = await db.query('SELECT name FROM pg_prepared_statements')
  await db.close()
  assert.deepEqual(rows, [{ name: hash('sha256', 'SELECT $1::int AS n', 'base64url') }])
})
