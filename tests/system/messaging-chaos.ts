// `npm run test:chaos -- messaging [--quick] [word…]`: group X against PostgreSQL 18 with its default settings (fsync on). A word picks the scenarios that have it in their names.
// Ends with 1, and says which message, when one was lost, out of order or repeated without having been in flight. A full run writes its table into the package's RELIABILITY.md.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startEmbeddedPostgres } from '../../apps/activelog/src/infrastructure/embedded-postgres.ts'
import type { Verdict } from './messaging-judge.ts'
import { type Scenario, scenarios } from './messaging-scenarios.ts'
import { openStage } from './messaging-stage.ts'

const report = join(import.meta.dirname, '../../packages/flow/messaging/RELIABILITY.md')
const columns = ['scenario', 'faults', 'confirmed', 'handled', 'duplicates', 'in flight', 'out of order', 'dead letters', 'recovery', 'verdict']

/** One scenario, with `share` of the faults of a full run, on a server of its own. `CHAOS_KEEP=1` leaves the journals. Throws when it comes to no end. */
export async function playOnce({ partitions = 4, play }: Scenario, share: number): Promise<Verdict & { server: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'cbtest-chaos-'))
  const server = await startEmbeddedPostgres({ dataDir: join(folder, 'server') })
  try {
    const stage = await openStage(server, join(folder, 'journals'), partitions)
    try {
      const verdict = await play(stage, share)
      const [row] = await stage.admin.query<{ server_version: string }>('SHOW server_version')
      return { ...verdict, server: row!.server_version }
    } finally {
      await stage.close()
    }
  } finally {
    await server.close()
    if (process.env['CHAOS_KEEP']) console.error(`The journals are in ${folder}`)
    else rmSync(folder, { recursive: true, force: true })
  }
}

const asRow = (name: string, { faults, confirmed, handled, duplicates, inFlight, disorders, letters, recoveryMs, failures }: Verdict): string[] => [
  name,
  ...[faults, confirmed, handled, duplicates, inFlight, disorders, letters].map(String),
  recoveryMs === undefined ? '-' : `${(recoveryMs / 1_000).toFixed(1)} s`,
  failures.length === 0 ? 'held' : 'FAILED',
]

const inMarkdown = (rows: readonly string[][], server: string): string => `# What it survives

Group X of the conformance list, run by \`npm run test:chaos -- messaging\`: real processes, killed, stopped and cut off; a real server with its default settings (\`fsync\` on) on its own data folder. Judged by
what each process wrote to a file before it acknowledged, not by what the broker says.

- **Confirmed** and not handled, nor a dead letter: lost. There must be none, and none **out of order** (a key's first completions, in the order of publishing).
- **Duplicates** are completions beyond the first. They may be at most what was **in flight**: for every owner of a partition, what it had started and had no confirmed settlement of when it ended. What a handler
  completes after its partition has another owner counts for nobody.
- **Recovery**: from a fault to the next completion of something fetched after it, on a partition that it hit; the longest. A member that was killed is missed for the rest of its lease (1 to 3 s here, 10 s by default).

PostgreSQL ${server}, Node ${process.versions.node}, ${availableParallelism()} cores, ${new Date().toISOString().slice(0, 10)}.

${[columns, columns.map((_, i) => (i === 0 ? '---' : '---:')), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')}
`

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { quick: { type: 'boolean', default: false } } })
  const picked = (name: string): boolean => positionals.length === 0 || positionals.some((word) => name.split(/[ ,]+/).includes(word))
  const wanted = scenarios.filter(({ name, quick }) => (!values.quick || quick !== undefined) && picked(name))
  const rows: string[][] = []
  let version = ''
  console.log(columns.join(' | '))
  for (const scenario of wanted) {
    const started = performance.now()
    try {
      const { server, ...verdict } = await playOnce(scenario, values.quick ? scenario.quick! : 1)
      version = server
      rows.push(asRow(scenario.name, verdict))
      console.log(`${rows.at(-1)!.join(' | ')} (in ${((performance.now() - started) / 1_000).toFixed(0)} s)`)
      for (const failure of verdict.failures.slice(0, 20)) console.log(`    ${failure}`)
    } catch (error) {
      rows.push([scenario.name, ...columns.slice(2).map(() => '-'), 'FAILED'])
      console.log(`${rows.at(-1)!.join(' | ')}\n    ${(error as Error).message}`)
    }
  }
  const failed = rows.filter((cells) => cells.at(-1) !== 'held').length
  console.log(failed === 0 ? `${rows.length} scenarios held` : `${failed} of ${rows.length} scenarios failed`)
  if (wanted.length === scenarios.length && !values.quick) writeFileSync(report, inMarkdown(rows, version))
  process.exitCode = failed === 0 ? 0 : 1
}

if (import.meta.main) await main()
