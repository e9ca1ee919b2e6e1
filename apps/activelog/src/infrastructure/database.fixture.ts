import type { TestContext } from 'node:test'
import { openDatabase as openTestDatabase } from '@core-backend/testkit/postgres'
import { type Database, openDatabase } from './database.ts'

/** A database of the test's own, empty, closed at its end. */
export async function freshDatabase(t: TestContext): Promise<Database> {
  const test = await openTestDatabase('pg18')
  const db = openDatabase(test.url!, { name: 'test' })
  t.after(async () => {
    await db.close()
    await test.close()
  })
  return db
}
