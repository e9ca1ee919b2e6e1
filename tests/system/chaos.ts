// `npm run test:chaos [-- messaging|activelog [flags…]]`: the slow suites in which processes and servers are killed, each a program of its own; without a name, all.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const suites: Record<string, string> = { messaging: 'messaging-chaos.ts', activelog: 'activelog-chaos.ts' }
const [name, ...rest] = process.argv.slice(2)
if (name !== undefined && !(name in suites)) throw new RangeError(`No chaos suite ${name}; there are ${Object.keys(suites).join(', ')}`)
for (const suite of name === undefined ? Object.keys(suites) : [name]) {
  const file = join(import.meta.dirname, suites[suite]!)
  const { status } = spawnSync(process.execPath, ['--conditions=@core-backend/source', file, ...rest], { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}
