// Runs every check, one line each: `npm run check`, or `npm run check imports docs` for some. A check is a file with a claim and a function that returns
// the faults it found below a root, so that it can be tried on a tree broken on purpose (checks.test.ts).
import { globSync } from 'node:fs'
import { repository } from './workspace.ts'

export interface Check {
  claim: string
  check: (root: string) => string[] | Promise<string[]>
  /** Faults are told and do not fail the gate. */
  warnsOnly?: boolean
}

/** The checks by name: `tools/check-imports.ts` is `imports`. */
export async function loadChecks(): Promise<Map<string, Check>> {
  const names = globSync('check-*.ts', { cwd: import.meta.dirname }).toSorted()
  const loaded = names.map(async (file): Promise<[string, Check]> => [file.slice('check-'.length, -'.ts'.length), (await import(`./${file}`)) as Check])
  return new Map(await Promise.all(loaded))
}

if (import.meta.main) {
  const wanted = process.argv.slice(2)
  const checks = await loadChecks()
  const unknown = wanted.filter((name) => !checks.has(name))
  if (unknown.length > 0) {
    console.error(`No check is called ${unknown.join(', ')}: there are ${[...checks.keys()].join(', ')}`)
    process.exit(1)
  }
  for (const [name, { claim, check, warnsOnly = false }] of checks) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    const faults = await check(repository)
    console.log(`${faults.length === 0 ? 'ok  ' : warnsOnly ? 'warn' : 'FAIL'} ${claim}`)
    for (const fault of faults) console.log(`       ${fault}`)
    if (faults.length > 0 && !warnsOnly) process.exitCode = 1
  }
}
