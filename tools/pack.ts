// The workspace resolves everything by its source condition, so only the tarball shows whether a package can be used: what is in it, whether publint and
// attw accept it, and whether it imports in an empty project that has nothing else. Needs `npm run build` first.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { isPublished } from './manifest.ts'
import { files as filesBelow, type Package, packages, pairwise, repository, run } from './workspace.ts'

export interface Tarball {
  pkg: Package
  /** Absolute. */
  path: string
  files: string[]
}

/** Packs every package of the workspace at `root` into the folder `into`. Throws when npm cannot. */
export function pack(root: string, into: string): Promise<Tarball[]> {
  return pairwise(packages(root), async (pkg) => {
    const { ok, output } = await run('npm', ['pack', '--json', '--pack-destination', into], { cwd: join(root, pkg.dir) })
    if (!ok) throw new Error(`Cannot pack ${pkg.name}: ${output}`)
    const [packed] = JSON.parse(output) as [{ filename: string; files: { path: string }[] }]
    return { pkg, path: join(into, packed.filename), files: packed.files.map(({ path }) => path) }
  })
}

/** An empty project below `parent` with these npm specifications installed; returns its folder. Throws when npm cannot. */
export async function project(parent: string, name: string, specifications: readonly string[]): Promise<string> {
  const dir = join(parent, name)
  mkdirSync(dir, { recursive: true })
  writeFileSync(join(dir, 'package.json'), `{ "name": "consumer", "private": true, "type": "module" }\n`)
  const { ok, output } = await run('npm', ['install', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund', ...specifications], { cwd: dir })
  if (!ok) throw new Error(`Cannot install ${specifications.join(' ')}: ${output}`)
  return dir
}

/** What is wrong with the packages as they would be published: a text a fault. */
export async function packFaults(root: string = repository): Promise<string[]> {
  const temporary = mkdtempSync(join(tmpdir(), 'core-backend-pack-'))
  try {
    const faults = await pairwise(await pack(root, temporary), async (tarball) => [
      ...contentFaults(root, tarball),
      ...(await commandFaults(tarball, 'publint', ['run', tarball.path, '--strict'])),
      ...(await commandFaults(tarball, 'attw', [tarball.path, '--profile', 'esm-only', '--no-definitely-typed', '--no-color', '--no-emoji'])),
      ...(await importFaults(tarball, await project(temporary, tarball.pkg.name, [tarball.path]))),
    ])
    return faults.flat()
  } finally {
    rmSync(temporary, { recursive: true, force: true })
  }
}

function contentFaults(root: string, { pkg, files }: Tarball): string[] {
  const written = filesBelow(join(root, pkg.dir)).filter(isPublished)
  const needed = [...new Set(['package.json', 'README.md', 'LICENSE', ...written])].filter((file) => !files.includes(file))
  const strays = files.filter((file) => !isPublished(file))
  return [...needed.map((file) => `${pkg.name}: the tarball lacks ${file}`), ...strays.map((file) => `${pkg.name}: the tarball has ${file}`)]
}

async function commandFaults({ pkg }: Tarball, command: string, args: string[]): Promise<string[]> {
  const { ok, output } = await run(command, args)
  return ok ? [] : [`${pkg.name}: ${command} says\n${output}`]
}

/** Imports every entry point where nothing else is installed. Only an entry point of a driver may miss something, and only a peer. */
async function importFaults({ pkg }: Tarball, dir: string): Promise<string[]> {
  const entries = Object.keys(pkg.manifest.exports ?? {}).map((entry) => join(pkg.manifest.name, entry))
  const peers = Object.keys(pkg.manifest.peerDependencies ?? {})
  const faults = await pairwise(entries, async (entry) => {
    const { ok, output } = await run(process.execPath, ['--input-type=module', '--eval', `await import('${entry}')`], { cwd: dir, timeoutMs: 60_000 })
    const missesPeer = entry !== pkg.manifest.name && peers.some((peer) => output.includes(`Cannot find package '${peer}'`))
    return ok || missesPeer ? '' : `${pkg.name}: installed alone, ${entry} does not import\n${output}`
  })
  return faults.filter((fault) => fault !== '')
}

if (import.meta.main) {
  const [into] = process.argv.slice(2)
  const faults = await packFaults()
  for (const fault of faults) console.error(fault)
  if (faults.length === 0) {
    const names = packages(repository).map(({ manifest }) => `${manifest.name}@${manifest.version}`)
    console.log(`Packed, checked, and imported in an empty project: ${names.join(', ')}`)
    if (into === undefined) console.log('The tarballs were temporary; npm run pack -- <folder> keeps them there')
    else {
      mkdirSync(into, { recursive: true })
      for (const { path } of await pack(repository, resolve(into))) console.log(path)
    }
  }
  process.exitCode = faults.length > 0 ? 1 : 0
}
