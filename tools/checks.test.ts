import assert from 'node:assert/strict'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { build } from './build.ts'
import { loadChecks } from './check.ts'
import { newPackage } from './new-package.ts'
import { pack, packFaults } from './pack.ts'
import { repository, run } from './workspace.ts'

const table = '| Package | What it is | Heart file |\n|---|---|---|\n'
let root: string
const put = (file: string, text: string): void => {
  mkdirSync(dirname(join(root, file)), { recursive: true })
  writeFileSync(join(root, file), text)
}

// A workspace of one new package, with the repository's configuration and installed tools.
before(() => {
  root = mkdtempSync(join(tmpdir(), 'core-backend-checks-'))
  for (const file of ['internal', 'tsconfig.json', 'tsconfig.build.json', '.oxlintrc.json', '.oxfmtrc.json', '.npmrc', 'LICENSE'])
    cpSync(join(repository, file), join(root, file), { recursive: true })
  put('package.json', '{ "name": "w", "private": true, "type": "module", "workspaces": ["internal", "packages/*/*"] }\n')
  put('package-lock.json', '{ "name": "w", "lockfileVersion": 3, "requires": true, "packages": {} }\n')
  put('examples/package.json', '{ "name": "@core-backend/examples", "private": true, "type": "module", "dependencies": {} }\n')
  put('README.md', `# W\n\n${table}`)
  put('ARCHITECTURE.md', `# W\n\n${table}`)
  newPackage(root, 'data', 'cache', 'Keeps what was dear to make')
  mkdirSync(join(root, 'node_modules/@core-backend'), { recursive: true })
  for (const name of readdirSync(join(repository, 'node_modules')))
    if (name !== '@core-backend') symlinkSync(join(repository, 'node_modules', name), join(root, 'node_modules', name))
  symlinkSync(join(root, 'internal'), join(root, 'node_modules/@core-backend/internal'))
  symlinkSync(join(root, 'packages/data/cache'), join(root, 'node_modules/@core-backend/cache'))
})
after(() => rmSync(root, { recursive: true, force: true }))

test('a new package takes the place of nothing, and says what it needs', () => {
  const made =
    (family: string, name: string, description = 'One sentence'): (() => string) =>
    () =>
      newPackage(root, family, name, description)
  assert.throws(made('guard', 'cache'), { message: 'packages/data/cache exists: choose another name' })
  assert.throws(made('toys', 'lock'), { message: 'The family must be one of flow, data, guard, edge, delivery, ops, got "toys"' })
  assert.throws(made('guard', 'Lock'), { message: 'The name must be lower-case letters and digits, got "Lock"' })
  for (const description of ['', 'a | b', 'a\nb']) assert.throws(made('guard', 'lock', description), /on one line and without \|/)
})

test('its rows in the package tables have the form of the others', () => {
  const row = (document: string): string | undefined => /^\|.*cache.*$/m.exec(readFileSync(join(root, document), 'utf8'))?.[0]
  assert.equal(row('README.md'), '| [cache](packages/data/cache) | Keeps what was dear to make | `cache.ts` |')
  assert.equal(row('ARCHITECTURE.md'), '| `@core-backend/cache` | Keeps what was dear to make | `cache.ts` |')
})

test('a new package passes every check', async () => {
  const { ok, output } = await run('npm', ['install', '--package-lock-only', '--offline', '--ignore-scripts'], { cwd: root })
  assert.ok(ok, output)
  for (const [name, { check }] of await loadChecks()) assert.deepEqual(await check(root), [], name)
})

for (const [claim, command, ...args] of [
  ['has types that hold', 'tsc', '-p', 'tsconfig.json'],
  ['has nothing for the linter', 'oxlint', '--type-aware', '--deny-warnings', 'packages', 'examples', 'internal'],
  ['is formatted', 'oxfmt', '--check', 'packages', 'examples', 'internal'],
  ['passes its test', 'node', '--conditions=@core-backend/source', '--test', 'packages/data/cache/src/cache.test.ts'],
  ['has an example that prints what it says', 'node', '--conditions=@core-backend/source', 'examples/cache.ts'],
] as const)
  test(`a new package ${claim}`, async () => {
    const { ok, output } = await run(command, args, { cwd: root })
    assert.ok(ok, output)
    if (args.at(-1) === 'examples/cache.ts') assert.equal(output, 'true\n')
  })

test('the linter finds a promise that floats', async () => {
  put('examples/floating.ts', 'export async function send(): Promise<void> {}\n\nsend()\n')
  const { ok, output } = await run('oxlint', ['--type-aware', '--deny-warnings', 'examples'], { cwd: root })
  rmSync(join(root, 'examples/floating.ts'))
  assert.ok(!ok && /no-floating-promises/.test(output), output)
})

test('a build has what is published, with the used files of internal/ only, and no test', async () => {
  put('packages/data/cache/src/deep/inner.ts', `import { systemClock } from '#internal/clock'\n\nexport const now: () => number = systemClock.now\n`)
  assert.deepEqual(await build(root), [])
  const dist = join(root, 'packages/data/cache/dist')
  const emitted = readdirSync(dist, { recursive: true, encoding: 'utf8' }).toSorted()
  const of = (base: string): string[] => [`${base}.d.ts`, `${base}.d.ts.map`, `${base}.js`, `${base}.js.map`]
  const internal = ['internal', 'internal/clock.d.ts', 'internal/clock.js', 'internal/clock.js.map']
  assert.deepEqual(emitted, [...of('cache'), 'deep', ...of('deep/inner'), ...of('index'), ...internal].toSorted())
  const sources = (file: string): unknown => (JSON.parse(readFileSync(join(dist, file), 'utf8')) as { sources: unknown }).sources
  assert.deepEqual(['cache.js.map', 'deep/inner.d.ts.map', 'internal/clock.js.map'].map(sources), [
    ['../src/cache.ts'],
    ['../../src/deep/inner.ts'],
    ['internal/clock.ts'],
  ])
  const { ok, output } = await run(
    'node',
    ['--input-type=module', '-e', `import { openCache } from '@core-backend/cache'; console.log(openCache().openedAt > 0)`],
    { cwd: root },
  )
  assert.ok(ok && output === 'true\n', output)
  rmSync(join(root, 'packages/data/cache/src/deep'), { recursive: true })
})

test('a tarball that can be used passes, one that cannot does not', async () => {
  const dist = join(root, 'packages/data/cache/dist')
  rmSync(join(dist, 'deep'), { recursive: true })
  const documents = ['README.md', 'WIRE.md', 'bench/README.md']
  for (const file of documents.slice(1)) put(`packages/data/cache/${file}`, '# W\n')
  assert.deepEqual(await packFaults(root), [])
  assert.deepEqual(
    (await pack(root, root))[0]?.files.filter((file) => file.endsWith('.md')),
    documents,
  )
  rmSync(join(dist, 'internal'), { recursive: true })
  rmSync(join(dist, 'index.d.ts'))
  put('packages/data/cache/src/stray.txt', '')
  const faults = (await packFaults(root)).join('\n')
  rmSync(join(root, 'packages/data/cache/src/stray.txt'))
  assert.match(faults, /the tarball has src\/stray\.txt[\s\S]*publint says[\s\S]*attw says[\s\S]*installed alone, @core-backend\/cache does not import/)
})

test('a build that fails says so', async () => {
  put('packages/data/cache/src/wrong.ts', 'export const wrong: string = 1\n')
  const faults = await build(root)
  rmSync(join(root, 'packages/data/cache/src/wrong.ts'))
  assert.match(faults.join('\n'), /cache does not build[\s\S]*wrong\.ts/)
})

const src = 'packages/data/cache/src'
const own = (edit: (manifest: Record<string, unknown>) => unknown) => (text: string) =>
  JSON.stringify(edit(JSON.parse(text) as Record<string, unknown>), null, 2)
const append = (more: string) => (text: string) => text + more
const prepend = (more: string) => (text: string) => more + text

/** One thing broken a row: which check has to find it, the file, the change, and what it must say. */
const broken: [check: string, file: string, edit: (text: string) => string, fault: RegExp][] = [
  ['imports', `${src}/cache.ts`, prepend(`import { lock } from '@core-backend/lock'\n`), /cache\.ts imports @core-backend\/lock/],
  ['imports', `${src}/cache.test.ts`, prepend(`import { lock } from '@core-backend/lock'\n`), /cache\.test\.ts imports @core-backend\/lock/],
  ['imports', `${src}/cache.ts`, prepend(`import {\n  lock,\n} from '../../../guard/lock/src/index.ts'\n`), /outside the package/],
  ['imports', `${src}/cache.ts`, prepend(`import type { Pool } from 'pg'\n`), /imports pg: not among its dependencies/],
  ['imports', `${src}/cache.ts`, append(`const pg = await import('pg')\n`), /imports pg: not among its dependencies/],
  ['imports', `${src}/cache.ts`, prepend(`import { wait } from '../../../../tests/kit/wait.ts'\n`), /outside the package/],
  ['imports', `${src}/cache.ts`, prepend(`import { wait } from '@core-backend/testkit'\n`), /testkit: packages compose/],
  ['imports', `${src}/cache.ts`, prepend(`import './cache.test.ts'\n`), /a test helper/],
  ['imports', `${src}/cache.ts`, prepend(`import { join } from 'path'\n`), /write it with node:/],
  ['imports', `${src}/index.ts`, append('export const one = 1\n'), /more than named exports/],
  ['imports', `${src}/index.ts`, append(`export * from './cache.ts'\n`), /more than named exports/],
  ['imports', 'internal/clock.ts', prepend(`import pg from 'pg'\n`), /internal\/clock\.ts imports pg/],
  ['imports', 'apps/shop/src/main.ts', append(`import { spy } from '@core-backend/messaging/testing'\n`), /main\.ts imports .*a test helper/],
  ['manifests', 'packages/data/cache/package.json', own((m) => ({ ...m, sideEffects: true })), /"sideEffects" must be false/],
  ['manifests', 'packages/data/cache/package.json', own((m) => ({ ...m, main: 'dist/index.js' })), /has "main"/],
  ['manifests', 'packages/data/cache/package.json', own((m) => ({ ...m, files: ['dist'] })), /"files" must be/],
  ['manifests', 'packages/data/cache/package.json', own((m) => ({ ...m, dependencies: { '@core-backend/lock': '*' } })), /depends on @core-backend\/lock/],
  ['manifests', 'packages/data/cache/package.json', own((m) => ({ ...m, peerDependencies: { pg: '^8.0.0' } })), /open range[\s\S]*not optional/],
  ['manifests', 'packages/data/cache/tsconfig.build.json', () => '{}\n', /tsconfig\.build\.json must be/],
  ['manifests', 'package.json', own((m) => ({ ...m, devDependencies: { pg: '^8.0.0' } })), /pin the exact version/],
  ['docs', `${src}/cache.ts`, (text) => text.replace(/\/\*\* Opens one.*\n/, ''), /exports openCache without a docstring/],
  ['docs', `${src}/cache.ts`, (text) => text.replace('clock?: Clock', 'clock?: Promise<any>'), /any in CacheOptions/],
  ['docs', `${src}/index.ts`, append(`export { gone } from './cache.ts'\n`), /exports gone, which it does not declare/],
  ['readme', 'packages/data/cache/README.md', (text) => text.replace('await cache', 'cache'), /README\.md:5 differs from examples\/cache\.ts/],
  ['readme', 'packages/data/cache/README.md', append('\n```ts\nlet x\n```\n'), /names no file/],
  ['readme', 'packages/data/cache/README.md', append('\n<!-- examples/no.ts -->\n```ts\nlet x\n```\n'), /not a file of examples/],
  ['readme', 'packages/data/cache/README.md', append('\n<!-- examples/cache.ts#part -->\n```ts\nlet x\n```\n'), /names the region part/],
  ['readme', 'README.md', append('[there](docs/no.md)\n'), /links to docs\/no\.md/],
  [
    'readme',
    'packages/data/cache/README.md',
    append('[map](../../../ARCHITECTURE.md)\n'),
    /links to \.\.\/\.\.\/\.\.\/ARCHITECTURE\.md, which is not in the package's tarball/,
  ],
  ['readme', 'packages/data/cache/README.md', append('[how](src/cache.test.ts)\n'), /links to src\/cache\.test\.ts, which is not in/],
  ['readme', 'examples/other.ts', () => 'console.log(1)\n', /does not end in "\/\/ Prints:"/],
  ['map', 'README.md', (text) => text.replace(/^\| \[cache.*\n/m, ''), /README\.md has no row for cache/],
  ['map', 'ARCHITECTURE.md', append('| `gone` | Nothing | - |\n'), /row for gone, which is no package/],
  ['map', 'ARCHITECTURE.md', (text) => text.replace('`cache.ts`', '`store.ts`'), /gives store\.ts as the heart file of cache/],
  ['map', 'ARCHITECTURE.md', append('\n'.repeat(150) + 'end\n'), /longer than 150/],
  ['lock', '.npmrc', append('registry=https://mirror.test/\n'), /names a registry/],
  [
    'lock',
    'package-lock.json',
    own((m) => ({ ...m, packages: { ...(m['packages'] as object), 'node_modules/x': { resolved: 'https://mirror.test/x.tgz' } } })),
    /takes node_modules\/x from/,
  ],
  ['lock', 'package.json', own((m) => ({ ...m, devDependencies: { pg: '8.23.1' } })), /npm ci refuses/],
  ['prose', 'README.md', append('see /tmp/notes\n'), /README\.md:\d+ names a path of a machine/],
  ['prose', `${src}/cache.ts`, append('// from https://registry.npmjs.org/pg\n'), /names a registry host/],
  ['prose', 'README.md', append('word \n'), /ends in a blank/],
  ['size', `${src}/cache.ts`, append('//\n'.repeat(400)), /has \d+ lines/],
]

for (const [name, file, edit, fault] of broken)
  test(`check-${name} finds what is wrong in ${file}: ${fault.source}`, async () => {
    const found = (await loadChecks()).get(name)
    assert.ok(found)
    let before: string | undefined
    try {
      before = readFileSync(join(root, file), 'utf8')
    } catch {}
    put(file, edit(before ?? ''))
    const faults = await found.check(root)
    if (before === undefined) rmSync(join(root, file))
    else put(file, before)
    assert.match(faults.join('\n'), fault)
  })

test('every check has been broken', async () => {
  assert.deepEqual([...(await loadChecks()).keys()].toSorted(), [...new Set(broken.map(([name]) => name))].toSorted())
})

test('CI stops the servers that it started, whatever an old file of addresses says, and leaves those that were up', async () => {
  const folder = join(root, 'ci')
  cpSync(join(repository, '.ci/run'), join(folder, '.ci/run'))
  const program = (file: string, text: string): void => {
    put(`ci/${file}`, `#!/bin/sh\n${text}\n`)
    chmodSync(join(folder, file), 0o755)
  }
  // `running` holds what the services' program started and still runs; somebody else's PostgreSQL is always there.
  program(
    'scripts/services',
    `case "$1" in
up) for name in redis nats; do grep -qx $name running || echo $name >> running; done ;;
status) echo 'postgres  15  postgres://x'; sed 's/$/  1  redis:x (started by us)/' running ;;
down) shift; for name; do sed -i "/^$name$/d" running; done ;;
esac`,
  )
  program('bin/npm', '')
  const env = { PATH: `${join(folder, 'bin')}:${process.env['PATH']}` }
  put('ci/.services/addresses.json', '[\n  {\n    "name": "redis"\n  }\n]\n')
  for (const before of ['', 'redis\n', 'redis\nnats\n']) {
    put('ci/running', before)
    const { ok, output } = await run(join(folder, '.ci/run'), [], { cwd: folder, env })
    assert.ok(ok, output)
    assert.equal(readFileSync(join(folder, 'running'), 'utf8'), before)
  }
})
