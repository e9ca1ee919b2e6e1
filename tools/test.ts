// npm test [-- [--coverage] [--servers] [path…]]: one PostgreSQL 18 for the whole run, the quick files in one process, the isolated ones in a process each, and an honest
// account at the end: totals, and which servers were used, in which version, and which were not and why. --servers runs the slow suites instead; a path runs what lies there.
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { embeddedServer } from '../tests/kit/postgres.ts'
import { services } from '../tests/kit/services.ts'
import { isCovered } from './test-coverage.ts'
import { runTests, type Totals } from './test-run.ts'

/** Called wrongly: what is wrong and the way out, without a stack. */
function refuse(problem: string): never {
  console.error(problem)
  process.exit(1)
}

const root = join(import.meta.dirname, '..')
const flags = process.argv.slice(2).filter((arg) => arg.startsWith('--'))
const paths = process.argv.slice(2).flatMap((arg) => (arg.startsWith('--') ? [] : [relative(root, arg)]))
const unknown = flags.filter((flag) => flag !== '--coverage' && flag !== '--servers')
if (unknown.length > 0) refuse(`Unknown flag ${unknown.join(', ')}; npm test [-- [--coverage] [--servers] [path…]]`)
const slow = flags.includes('--servers')
const coverage = flags.includes('--coverage')

const all = globSync('{internal,packages,apps,examples,tools,tests}/**/*.test.ts', {
  cwd: root,
  exclude: (name) => name === 'node_modules' || name === 'dist',
}).sort()
const isSlow = (file: string): boolean => file.endsWith('.servers.test.ts') || file.startsWith('tests/system/')
const wanted =
  paths.length > 0
    ? all.filter((file) => paths.some((path) => file === path || path === '' || file.startsWith(`${path}/`)))
    : all.filter((file) => isSlow(file) === slow)
if (wanted.length === 0) refuse(`No test files${paths.length > 0 ? ` at ${paths.join(', ')}` : ''}`)
const isolated = wanted.filter((file) => isSlow(file) || file.endsWith('.isolated.test.ts'))
const together = wanted.filter((file) => !isolated.includes(file))

const scratch = mkdtempSync(join(tmpdir(), 'cbtest-run-'))
process.once('exit', () => rmSync(scratch, { recursive: true, force: true }))
const coveredFile = join(scratch, 'covered')
writeFileSync(coveredFile, '')
const v8 = join(root, 'coverage/v8')
if (coverage) rmSync(join(root, 'coverage'), { recursive: true, force: true })
const env = {
  ...process.env,
  TEST_PG18_URL: await embeddedServer(),
  TEST_SERVICES: JSON.stringify(services()),
  TEST_COVERED: coveredFile,
  ...(!slow && { TEST_QUICK_MS: '5000' }),
  ...(coverage && { NODE_V8_COVERAGE: v8 }),
}

const runs: Totals[] = []
if (together.length > 0) {
  const progress = join(scratch, 'progress')
  writeFileSync(progress, '')
  const where = (): string => `, in ${readFileSync(progress, 'utf8') || 'none of the files'}`
  runs.push(await runTests('tests in one process', [join(root, 'tools/test-files.ts'), progress, ...together], { env, scratch, guardMs: 600_000, where }))
}
if (isolated.length > 0) {
  const width = slow ? 1 : Math.min(2, availableParallelism())
  const guardMs = slow ? 1_500_000 : 600_000
  runs.push(
    await runTests('isolated tests', ['--test', `--test-concurrency=${width}`, ...isolated], {
      env,
      scratch,
      guardMs,
      where: () => '; see the last lines above',
    }),
  )
}

console.log('\nServers')
const used = new Map(
  readFileSync(coveredFile, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as [string, string]),
)
for (const [name, version] of used) if (!services().some((service) => service.name === name)) console.log(`  ${name.padEnd(16)}${version.padEnd(10)}covered`)
for (const { name, version, reason } of services())
  console.log(
    `  ${name.padEnd(16)}${(version ?? '').padEnd(10)}${reason ? `not covered: ${reason}` : used.has(name) ? 'covered' : 'not covered: no test here asks for it'}`,
  )

if (coverage && !(await isCovered(root, v8))) runs.push({ passed: 0, failed: 1, skipped: 0 })
const total = (of: keyof Totals): number => runs.reduce((sum, run) => sum + run[of], 0)
console.log(`\n${total('passed')} passed, ${total('failed')} failed, ${total('skipped')} skipped`)
process.exitCode = total('failed') === 0 ? 0 : 1
