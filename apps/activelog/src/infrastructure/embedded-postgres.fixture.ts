// A small application on an embedded server, for the tests to kill. Arguments: the data folder. Lines of standard input: `exit` ends it without a close.
import { createInterface } from 'node:readline'
import { Client } from 'pg'
import { startEmbeddedPostgres } from './embedded-postgres.ts'

try {
  const server = await startEmbeddedPostgres({ dataDir: process.argv[2]! })
  createInterface({ input: process.stdin }).on('line', () => process.exit(0))
  process.once('SIGINT', () => {
    const work = async (): Promise<void> => {
      const client = new Client({ connectionString: server.url })
      await client.connect()
      await client.query('SELECT 1')
      console.log('still served')
      await client.end()
      await server.close()
      process.exit(0)
    }
    void work()
  })
  console.log(`ready ${server.pid} ${server.url}`)
} catch (error) {
  console.log(`failed ${(error as { code?: string }).code} ${(error as Error).message}`)
  process.exitCode = 1
}
