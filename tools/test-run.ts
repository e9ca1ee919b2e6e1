// One run of node:test in a process of its own, with a hang guard, for tools/test.ts.
import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Totals {
  passed: number
  failed: number
  skipped: number
}

export interface RunOptions {
  env: NodeJS.ProcessEnv
  /** A folder for the totals. */
  scratch: string
  guardMs: number
  /** Where a run that ended early stood, as the end of a sentence. */
  where: () => string
}

const root = join(import.meta.dirname, '..')

/** Runs Node with the totals written aside; a run that dies or stands still is one failure that says where. */
export async function runTests(what: string, args: readonly string[], { env, scratch, guardMs, where }: RunOptions): Promise<Totals> {
  const totals = join(scratch, 'totals')
  writeFileSync(totals, '')
  const reporters = [
    `--test-reporter=${join(root, 'tools/test-report.ts')}`,
    '--test-reporter-destination=stdout',
    `--test-reporter=${join(root, 'tools/test-totals.ts')}`,
    `--test-reporter-destination=${totals}`,
  ]
  const child = spawn(process.execPath, ['--conditions=@core-backend/source', ...reporters, ...args], {
    cwd: root,
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  const stop = (): void => void child.kill('SIGKILL')
  process.once('exit', stop)
  let hung = false
  const guard = setTimeout(() => {
    hung = true
    stop()
  }, guardMs)
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  clearTimeout(guard)
  process.off('exit', stop)
  const last = readFileSync(totals, 'utf8').trim().split('\n').at(-1)
  const counts = last ? (JSON.parse(last) as { passed: number; failed: number; cancelled: number; skipped: number; todo: number }) : undefined
  const failed = (counts?.failed ?? 0) + (counts?.cancelled ?? 0)
  if (hung) console.error(`\nThe ${what} stood still for ${guardMs / 60_000} minutes and were killed${where()}`)
  else if (!counts) console.error(`\nThe ${what} ended early with ${code === null ? 'a signal' : `code ${code}`} and without totals${where()}`)
  return {
    passed: counts?.passed ?? 0,
    // A suite that fails without a failing test in it counts for one.
    failed: failed > 0 ? failed : code === 0 && counts ? 0 : 1,
    skipped: (counts?.skipped ?? 0) + (counts?.todo ?? 0),
  }
}
