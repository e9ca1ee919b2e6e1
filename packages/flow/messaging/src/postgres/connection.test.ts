import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { SqlClient } from '#internal/sql'
import { Client } from 'pg'
import { never } from '../postgres.fixture.ts'
import { postgresDriver } from '../postgres.ts'

test('no error shows a password, and each says whether trying again makes sense', async () => {
  const failing = (error: Error): SqlClient => ({
    query: async () => {
      throw error
    },
  })
  const ask = (error: Error): Promise<unknown> => postgresDriver({ client: failing(error) }).ping({ signal: never })
  await assert.rejects(ask(new Error('cannot reach postgres://me:secret@db:5432/x')), {
    code: 'ERR_MESSAGING_CONNECTION',
    retryable: true,
    message: 'PostgreSQL: cannot reach postgres://me:***@db:5432/x',
  })
  await assert.rejects(ask(new Error('cannot reach postgres://me:a/b?c@d#e@db:5432/x')), { message: 'PostgreSQL: cannot reach postgres://me:***@db:5432/x' })
  await assert.rejects(ask(Object.assign(new Error('password authentication failed for user "me"'), { code: '28P01', severity: 'FATAL' })), {
    code: 'ERR_MESSAGING_CONNECTION',
    retryable: false,
  })
  await assert.rejects(ask(Object.assign(new Error('permission denied for schema messaging'), { code: '42501', severity: 'ERROR' })), {
    code: 'ERR_MESSAGING_BROKER',
    retryable: false,
  })
  await assert.rejects(ask(Object.assign(new Error('terminating connection'), { code: '57P01', severity: 'FATAL' })), { retryable: true })
  const gone = new Client({ connectionString: 'postgres://me:secret@127.0.0.1:1/x' })
  await assert.rejects(gone.connect())
  await assert.rejects(postgresDriver({ client: gone }).ping({ signal: never }), (error: Error) => !error.message.includes('secret'))
})

test('a statement without an answer is given up after its time', async () => {
  const driver = postgresDriver({ client: { query: () => new Promise(() => undefined) }, statementMs: 20 })
  await assert.rejects(driver.ping({ signal: never }), { code: 'ERR_MESSAGING_CONNECTION', retryable: true, message: /no answer within 20 ms/ })
  await driver.close()
})
