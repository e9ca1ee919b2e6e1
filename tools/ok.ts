// The one gate, the same on a laptop and in CI. What is independent runs side by side: the tests are one lane, everything else the other.
// Each step is a claim about the repository; only those that fail show what they printed.
import { run } from './workspace.ts'

interface Step {
  claim: string
  script: string
  args?: string[]
  /** Runs only when the step before it in the lane passed. */
  needsPrevious?: boolean
}

const lanes: Step[][] = [
  [{ claim: 'Tests pass and cover the code', script: 'test', args: ['--coverage'] }],
  [
    { claim: 'Types hold', script: 'types' },
    { claim: 'No promise floats, and nothing else for the linter', script: 'lint' },
    { claim: 'Every file is formatted', script: 'format', args: ['--check'] },
    { claim: 'Every check passes', script: 'check' },
    { claim: 'No file, export or dependency is unused', script: 'knip' },
    { claim: 'Every package builds', script: 'build' },
    { claim: 'Every tarball can be installed alone and imported', script: 'pack', needsPrevious: true },
  ],
]

const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1).padStart(6)} s`
const failed: string[] = []
/** What the failed steps printed, shown at the end where it is looked for. */
const outputs: string[] = []
let totals: string | undefined

async function runLane(steps: readonly Step[]): Promise<void> {
  let passed = true
  for (const { claim, script, args = [], needsPrevious = false } of steps) {
    if (needsPrevious && !passed) {
      failed.push(`${claim} (not tried)`)
      continue
    }
    const { ok, output, ms } = await run('npm', ['run', '--silent', script, '--', ...args], { timeoutMs: 1_200_000 })
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${seconds(ms)}  ${claim}`)
    if (!ok) {
      outputs.push(`\n${claim}\n${output}`)
      failed.push(`${claim} (npm run ${[script, ...(args.length > 0 ? ['--', ...args] : [])].join(' ')})`)
    }
    totals = /^\d+ passed, \d+ failed, \d+ skipped$/m.exec(output)?.[0] ?? totals
    passed = ok
  }
}

const started = performance.now()
await Promise.all(lanes.map(runLane))
console.log(outputs.join(''))
console.log(`${seconds(performance.now() - started)}  ${failed.length === 0 ? 'All of it holds' : `${failed.length} failed:\n  ${failed.join('\n  ')}`}`)
if (totals !== undefined) console.log(totals)
process.exitCode = failed.length === 0 ? 0 : 1
