// Makes every package's `dist` as it is published: JavaScript, declarations, source maps, and under `dist/internal` exactly the files of `internal/`
// that the package uses. tsc follows the imports from `src` into `internal/`, so one emission finds them all; what is left is to lay it out flat.
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { files, packages, pairwise, repository, run } from './workspace.ts'

interface SourceMap {
  sources: string[]
  sourcesContent?: string[]
}

/** Builds the packages of the workspace at `root`; returns what went wrong, a text a package. */
export async function build(root: string = repository): Promise<string[]> {
  const faults = await pairwise(packages(root), async ({ dir, name }) => {
    rmSync(join(root, dir, 'dist'), { recursive: true, force: true })
    const { ok, output } = await run('tsc', ['-p', 'tsconfig.build.json'], { cwd: join(root, dir) })
    if (!ok) return `${name} does not build\n${output}`
    lay(join(root, dir), dir)
    copyFileSync(join(root, 'LICENSE'), join(root, dir, 'LICENSE'))
    return ''
  })
  return faults.filter((fault) => fault !== '')
}

/** `dist/.emit/packages/flow/messaging/src/a.js` becomes `dist/a.js`, `dist/.emit/internal/b.js` becomes `dist/internal/b.js`. */
function lay(home: string, dir: string): void {
  const emitted = join(home, 'dist/.emit')
  for (const file of files(emitted)) {
    const shared = file.startsWith('internal/')
    const to = join(home, 'dist', shared ? file : file.slice(`${dir}/src/`.length))
    mkdirSync(dirname(to), { recursive: true })
    renameSync(join(emitted, file), to)
    // The sources of internal/ are not published: its JavaScript maps carry them, its declaration maps would point at nothing.
    if (shared && file.endsWith('.d.ts.map')) rmSync(to)
    else if (shared && file.endsWith('.d.ts')) writeFileSync(to, readFileSync(to, 'utf8').replace(/\n?\/\/# sourceMappingURL=.*\n?$/, '\n'))
    else if (file.endsWith('.map')) writeFileSync(to, JSON.stringify(remapped(JSON.parse(readFileSync(to, 'utf8')) as SourceMap, shared)))
  }
  rmSync(emitted, { recursive: true })
}

/** Sources lie in the package's `src`, which is published too; those of internal/ are only named. */
function remapped(map: SourceMap, shared: boolean): SourceMap {
  if (shared) return { ...map, sources: map.sources.map((source) => source.replace(/^(\.\.\/)+/, '')) }
  const { sourcesContent: _, ...rest } = map
  return { ...rest, sources: map.sources.map((source) => source.replace(/^(\.\.\/)+/, (up) => up.slice('../../../../../'.length))) }
}

if (import.meta.main) {
  const faults = await build()
  for (const fault of faults) console.error(fault)
  if (faults.length === 0)
    console.log(
      `Built ${packages(repository)
        .map(({ dir }) => join(dir, 'dist'))
        .join(', ')}`,
    )
  process.exitCode = faults.length > 0 ? 1 : 0
}
