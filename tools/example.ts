// Runs one file of examples/ on the sources: `npm run example -- messaging`. Node alone looks for the builds of the packages, which a fresh clone has not.
import { spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { basename, join } from 'node:path'
import { repository } from './workspace.ts'

const [given = ''] = process.argv.slice(2)
const names = globSync('examples/*.ts', { cwd: repository, exclude: ['**/*.test.ts'] })
  .map((file) => basename(file, '.ts'))
  .toSorted()
const name = given.replace(/^examples\//, '').replace(/\.ts$/, '')
if (names.includes(name)) {
  const child = spawn(process.execPath, ['--conditions=@core-backend/source', join(repository, 'examples', `${name}.ts`)], { stdio: 'inherit' })
  child.on('exit', (code) => (process.exitCode = code ?? 1))
} else {
  const what = given === '' ? 'Which example? npm run example -- messaging;' : `No example is called ${given}:`
  console.error(`${what} there are ${names.join(', ')}`)
  process.exitCode = 1
}
