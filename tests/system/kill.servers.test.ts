import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { openDatabase } from '@core-backend/testkit/postgres'
import { skipUnless } from '@core-backend/testkit/services'
import { killEmbedded, killRoles } from './kill.ts'

const posts = 300

test('embedded: the process is killed, every third time the database server too; every 201 counts once, in order', async (t) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'cbtest-kill-'))
  chmodSync(dataDir, 0o755)
  t.after(() => rmSync(dataDir, { recursive: true, force: true }))
  t.diagnostic(JSON.stringify(await killEmbedded(dataDir, { posts })))
})

test('on a server: two each of api, relay and worker are killed singly; every 201 counts once, in order', { skip: skipUnless('postgres15') }, async (t) => {
  const database = await openDatabase('pg15')
  t.after(() => database.close())
  t.diagnostic(JSON.stringify(await killRoles(database.url!, { posts })))
})
