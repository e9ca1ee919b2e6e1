// Copying the last package copies its mistakes too. This makes one that passes the gate as it stands, so that every change after it is about the package
// itself: npm run new-package -- <family> <name> "One sentence that says what it is"
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { buildConfig, template } from './manifest.ts'
import { exampleText, heartText, noun, readmeText, testText } from './new-package-texts.ts'
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
