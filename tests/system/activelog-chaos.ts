// `npm run test:chaos -- activelog [posts]`: the kill test of ActiveLog in full, on the embedded default and on a PostgreSQL server. Prints a table.
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { functionalSettings } from '@core-backend/testkit/postgres'
import { startEmbeddedPostgres } from '../../apps/activelog/src/infrastructure/embedded-postgres.ts'
import { killEmbedded, type KillReport, killRoles } from './kill.ts'

const posts = Number(process.argv[2] ?? 2_000)
if (!(posts >= 50)) throw new RangeError(`The number of posts must be at least 50, got ${process.argv[2]}`)

/** A folder for a cluster, gone afterwards. */
async function inFolder<T>(fn: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'cbtest-chaos-'))
  chmodSync(folder, 0o755)
  try {
    return await fn(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A server of its own with its default durability: chaos touches none that the machine has. */
const onServer = (): Promise<KillReport> =>
  inFolder(async (dataDir) => {
    const server = await startEmbeddedPostgres({ dataDir, settings: { max_connections: functionalSettings['max_connections']! } })
    try {
      return await killRoles(server.url, { posts })
    } finally {
      await server.close()
    }
  })

const reports: Record<string, KillReport> = {
  'embedded: one process, its database': await inFolder((dataDir) => killEmbedded(dataDir, { posts })),
  'server: 2 api, 2 relay, 2 worker': await onServer(),
}
console.table(reports)
