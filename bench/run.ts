// `npm run bench -- [name …] [--rounds N] [--only group,…]`: the suites that packages and apps keep in `bench/suite.ts`, by the name of their folder.
import { globSync } from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { runSuite, type Suite } from './kit.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '7' }, only: { type: 'string', default: '' } },
})
const rounds = Number(values.rounds)
if (!Number.isInteger(rounds) || rounds < 1) throw new RangeError(`--rounds must be an integer of at least 1, got ${values.rounds}`)
const root = resolve(import.meta.dirname, '..')
const files = globSync(['packages/*/*/bench/suite.ts', 'apps/*/bench/suite.ts'], { cwd: root }).toSorted()
const byName = new Map(files.map((file) => [basename(dirname(dirname(file))), resolve(root, file)]))
const unknown = positionals.filter((name) => !byName.has(name))
if (unknown.length > 0) {
  console.error(`No benchmark ${unknown.join(', ')}; there are ${[...byName.keys()].join(', ')}`)
  process.exit(1)
}
for (const name of positionals.length > 0 ? positionals : byName.keys()) {
  const file = byName.get(name)!
  const { suite } = (await import(pathToFileURL(file).href)) as { suite: Suite }
  const only = values.only === '' ? [] : values.only.split(',')
  const missing = only.filter((group) => !Object.hasOwn(suite.groups, group))
  if (missing.length > 0) {
    console.error(`The benchmark ${name} has no ${missing.join(', ')}; there are ${Object.keys(suite.groups).join(', ')}`)
    process.exit(1)
  }
  await runSuite(suite, { file, rounds, only })
}
