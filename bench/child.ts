// One case of one group of a suite, in a process of its own: `child.ts <suite file> <group> <case>`.
import { pathToFileURL } from 'node:url'
import type { Suite } from './kit.ts'

const [file = '', group = '', name = ''] = process.argv.slice(2)
const { suite } = (await import(pathToFileURL(file).href)) as { suite: Suite }
const found = suite.groups[group]?.cases[name]
if (!found) throw new RangeError(`No case ${name} in group ${group} of ${file}`)
console.log(`figure ${await found.run()}`)
process.exit(0)
