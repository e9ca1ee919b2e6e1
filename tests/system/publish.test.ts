import assert from 'node:assert/strict'
import { copyFileSync, globSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { build } from '../../tools/build.ts'
import { importsOf, packageOf } from '../../tools/check-imports.ts'
import { examplesOf, prints } from '../../tools/examples.ts'
import { pack, project, type Tarball } from '../../tools/pack.ts'
import { packages, read, readManifest, repository, run } from '../../tools/workspace.ts'

// A stranger's project: the published tarball, the README's example as it is printed there, the Node and the TypeScript that he has.
const typescripts = ['5.9', '7.0']
const options = { strict: true, module: 'nodenext', target: 'es2023', types: ['node'], noEmit: true, skipLibCheck: false }

let temporary: string
let tarballs: Tarball[]
let node22: string
before(async () => {
  temporary = mkdtempSync(join(tmpdir(), 'core-backend-publish-'))
  assert.deepEqual(await build(), [])
  tarballs = await pack(repository, temporary)
  const platform = `node-${process.platform === 'win32' ? 'win' : process.platform}-${process.arch}`
  node22 = join(await project(temporary, 'node22', [`${platform}@22`]), 'node_modules', platform, 'bin/node')
  for (const version of typescripts) await project(temporary, `typescript${version}`, [`typescript@~${version}.0`])
})
after(() => rmSync(temporary, { recursive: true, force: true }))

for (const { name, dir } of packages(repository)) {
  const examples = examplesOf(repository, join(dir, 'README.md'))
  const consumer = (): string => join(temporary, name)

  test(`${name}: the tarball installs with what its README example imports`, async () => {
    assert.notDeepEqual(examples, [], 'its README shows no example')
    await project(temporary, name, specifications(name, examples))
    for (const example of examples) copyFileSync(join(repository, example), join(consumer(), basename(example)))
    writeFileSync(join(consumer(), 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['*.ts'] }))
  })

  for (const example of examples)
    for (const major of ['22', '24'])
      test(`${name}: ${example} prints what it says on Node ${major}`, async () => {
        const binary = major === '22' ? node22 : process.execPath
        const { output: version } = await run(binary, ['--version'])
        assert.match(version, new RegExp(`^v${major}\\.`))
        const { ok, output } = await run(binary, ['--disable-warning=ExperimentalWarning', basename(example)], { cwd: consumer(), timeoutMs: 100_000 })
        assert.ok(ok, output)
        assert.equal(output.trimEnd(), prints(read(repository, example)))
      })

  for (const version of typescripts)
    test(`${name}: its README example has types that hold under TypeScript ${version}`, async () => {
      const tsc = join(temporary, `typescript${version}/node_modules/typescript/bin/tsc`)
      assert.match((await run(process.execPath, [tsc, '--version'])).output, new RegExp(`Version ${version.replace('.', '\\.')}\\.`))
      const { ok, output } = await run(process.execPath, [tsc, '-p', '.'], { cwd: consumer() })
      const errors = output.split('\n').filter((line) => line.includes('error TS'))
      assert.ok(ok || errors.length > 0, output)
      // Others' declarations are theirs to mend (PGlite's name types that they do not bring); ours are judged as strictly as the example.
      assert.deepEqual(
        errors.filter((line) => !/^node_modules\/(?!@core-backend\/)/.test(line)),
        [],
      )
    })
}

/** The tarballs of the package and of ours that the examples import, and their other imports (with types) as the workspace pins them. */
function specifications(name: string, examples: readonly string[]): string[] {
  const manifests = globSync('{,examples/,apps/*/}package.json', { cwd: repository }).map((file) => readManifest(repository, dirname(file)))
  const pinned = Object.assign({}, ...manifests.map((manifest) => ({ ...manifest.dependencies, ...manifest.devDependencies }))) as Record<string, string>
  const imported = examples.flatMap((example) => importsOf(read(repository, example)).map(({ specifier }) => packageOf(specifier)))
  const needed = new Set([`@core-backend/${name}`, '@types/node', ...imported.filter((specifier) => !/^(node:|\.)/.test(specifier))])
  if (needed.has('pg')) needed.add('@types/pg')
  return [...needed].map((dependency) => {
    const tarball = tarballs.find(({ pkg }) => pkg.manifest.name === dependency)
    if (tarball !== undefined) return tarball.path
    assert.ok(pinned[dependency], `${dependency} is not pinned in the workspace`)
    return `${dependency}@${pinned[dependency]}`
  })
}
