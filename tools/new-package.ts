// Copying the last package copies its mistakes too. This makes one that passes the gate as it stands, so that every change after it is about the package
// itself: npm run new-package -- <family> <name> "One sentence that says what it is"
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { buildConfig, template } from './manifest.ts'
import { isFile, read, readManifest, repository, run } from './workspace.ts'

const families = ['flow', 'data', 'guard', 'edge', 'delivery', 'ops']

/** Writes the package `packages/<family>/<name>`, its example and its rows in the package tables; returns the package's folder. */
export function newPackage(root: string, family: string, name: string, description: string): string {
  if (!families.includes(family)) throw new RangeError(`The family must be one of ${families.join(', ')}, got ${JSON.stringify(family)}`)
  if (!/^[a-z][a-z0-9]+$/.test(name)) throw new RangeError(`The name must be lower-case letters and digits, got ${JSON.stringify(name)}`)
  if (!/^[^|\n]+$/.test(description))
    throw new RangeError(`The description must be one sentence, on one line and without |, got ${JSON.stringify(description)}`)
  const dir = `packages/${family}/${name}`
  // Names are npm's: the same one in another family would be the same package.
  for (const taken of [...families.map((one) => `packages/${one}/${name}`), `examples/${name}.ts`])
    if (existsSync(join(root, taken))) throw new RangeError(`${taken} exists: choose another name`)
  const put = (file: string, text: string): void => {
    mkdirSync(dirname(join(root, file)), { recursive: true })
    writeFileSync(join(root, file), text)
  }
  put(`${dir}/package.json`, `${JSON.stringify(template({ name, version: '0.1.0', description, entries: { '.': 'index' } }), null, 2)}\n`)
  put(`${dir}/tsconfig.build.json`, buildConfig)
  put(`${dir}/README.md`, readmeText(name, description))
  put(`${dir}/src/index.ts`, `export { open${noun(name)} } from './${name}.ts'\nexport type { ${noun(name)}, ${noun(name)}Options } from './${name}.ts'\n`)
  put(`${dir}/src/${name}.ts`, heartText(name))
  put(`${dir}/src/${name}.test.ts`, testText(name))
  put(`examples/${name}.ts`, exampleText(name))
  const manifest = readManifest(root, 'examples')
  const dependencies = Object.fromEntries(Object.entries({ ...manifest.dependencies, [`@core-backend/${name}`]: '*' }).toSorted(([a], [b]) => (a < b ? -1 : 1)))
  put('examples/package.json', `${JSON.stringify({ ...manifest, dependencies }, null, 2)}\n`)
  for (const [document, cell] of [
    ['README.md', `[${name}](${dir})`],
    ['ARCHITECTURE.md', `\`@core-backend/${name}\``],
  ] as const)
    if (isFile(root, document)) put(document, withRow(read(root, document), [cell, description, `\`${name}.ts\``]))
  return dir
}

const noun = (name: string): string => name[0]!.toUpperCase() + name.slice(1)

const heartText = (name: string): string => `import { type Clock, systemClock } from '#internal/clock'

/** What {@link open${noun(name)}} takes. */
export interface ${noun(name)}Options {
  /** @default the system's clock */
  clock?: Clock
}

/** What the user of the package holds. Close it when done; closing twice is fine. */
export interface ${noun(name)} extends AsyncDisposable {
  /** When it was opened, ms since the epoch. */
  readonly openedAt: number
  close(): Promise<void>
}

/** Opens one. Holds nothing yet that closing would have to release. */
export function open${noun(name)}({ clock = systemClock }: ${noun(name)}Options = {}): ${noun(name)} {
  const close = async (): Promise<void> => {}
  return { openedAt: clock.now(), close, [Symbol.asyncDispose]: close }
}
`

const testText = (name: string): string => `import assert from 'node:assert/strict'
import { test } from 'node:test'
import { open${noun(name)} } from './index.ts'

test('knows when it was opened, by the clock that it is given', async () => {
  const ${name} = open${noun(name)}({ clock: { now: () => 42, monotonic: () => 0, sleep: async () => {} } })
  assert.equal(${name}.openedAt, 42)
  await ${name}.close()
  await ${name}.close()
})
`

const exampleText = (name: string): string => `import { open${noun(name)} } from '@core-backend/${name}'

const ${name} = open${noun(name)}()
console.log(${name}.openedAt <= Date.now())
await ${name}.close()

// Prints:
// true
`

const readmeText = (name: string, description: string): string =>
  `# @core-backend/${name}\n\n${description}.\n\n<!-- examples/${name}.ts -->\n\`\`\`ts\n${exampleText(name)}\`\`\`\n\n` +
  `\`\`\`sh\nnpm install @core-backend/${name}\n\`\`\`\n\n## What it promises, and what not\n\n- It is open from \`open${noun(name)}\` to \`close()\`, which may be called twice.\n\nStatus: \`new\`.\n`

/** Appends a row to the package table; columns that only a person can fill get a dash. */
function withRow(document: string, cells: string[]): string {
  return document.replace(/^(\| *Package *\|.*\n)((?:\|.*\n)*)/im, (table, head: string) => {
    const columns = head.split('|').slice(1, -1)
    return `${table}|${columns.map((column, i) => ` ${/heart/i.test(column) ? cells[2] : i < 2 ? cells[i] : '-'} `).join('|')}|\n`
  })
}

if (import.meta.main) {
  const [family = '', name = '', description = ''] = process.argv.slice(2)
  try {
    const dir = newPackage(repository, family, name, description.replace(/\.$/, ''))
    const { ok, output } = await run('npm', ['install'])
    console.log(ok ? `${dir} is there: npm run ok` : `${dir} is there, but npm install failed:\n${output}`)
    process.exitCode = ok ? 0 : 1
  } catch (error) {
    console.error(`${(error as Error).message}\nnpm run new-package -- <family> <name> "One sentence that says what it is"`)
    process.exitCode = 1
  }
}
