// The coverage of a test run: npm's c8 reads what V8 wrote in every process, and the threshold holds for each package on its own, so that none hides behind another.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, relative } from 'node:path'

/** Lines, percent, of each package and application. */
const threshold = 85

/** Prints the lines covered of each package and application, from all the processes that wrote into the folder `v8`; `false` when one is below the threshold. */
export async function isCovered(root: string, v8: string): Promise<boolean> {
  const only = ['packages/*/*/src/**', 'apps/*/src/**'].flatMap((glob) => ['--include', glob])
  const args = [
    'report',
    '--temp-directory',
    v8,
    '--reporter',
    'json-summary',
    '--reporter',
    'html',
    '--all',
    ...only,
    '--exclude',
    '**/*.test.ts',
    '--exclude',
    '**/*.fixture.ts',
  ]
  const child = spawn(process.execPath, [join(root, 'node_modules/c8/bin/c8.js'), ...args], { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] })
  if ((await new Promise((resolve) => child.once('close', resolve))) !== 0) return false
  const files = Object.entries(
    JSON.parse(readFileSync(join(root, 'coverage/coverage-summary.json'), 'utf8')) as Record<string, { lines: { total: number; covered: number } }>,
  )
  const parts = new Map<string, { total: number; covered: number }>()
  for (const [file, { lines }] of files) {
    const part = relative(root, file).split('/src/')[0]!
    const { total, covered } = parts.get(part) ?? { total: 0, covered: 0 }
    if (file !== 'total') parts.set(part, { total: total + lines.total, covered: covered + lines.covered })
  }
  console.log('\nLines covered')
  let enough = true
  for (const [part, { total, covered }] of parts) {
    const percent = (100 * covered) / total
    const low = percent < threshold
    if (low) enough = false
    console.log(`  ${part.padEnd(28)}${percent.toFixed(1).padStart(6)} %${low ? `  below ${threshold} %, see coverage/index.html` : ''}`)
  }
  return enough
}
