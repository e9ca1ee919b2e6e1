// The one template of a package's package.json: new packages are written from it and existing ones are held against it, so that publishing
// (entry points, conditions, what is in the tarball) is decided here and never by hand. Changing the shape of every package starts in this file.
export interface Own {
  name: string
  version: string
  description: string
  /** Paths below `src` by entry point: `{ '.': 'index', './postgres': 'postgres' }`. */
  entries: Record<string, string>
  /** What only this package has: dependencies, peers, bin, keywords. */
  rest?: Record<string, unknown>
}

export const optionalKeys: readonly string[] = ['keywords', 'bin', 'dependencies', 'peerDependencies', 'peerDependenciesMeta']

export function template({ name, version, description, entries, rest = {} }: Own): Record<string, unknown> {
  const conditions = (base: string, source: string): Record<string, string> => ({
    '@core-backend/source': source,
    types: `./dist/${base}.d.ts`,
    default: `./dist/${base}.js`,
  })
  return {
    name: `@core-backend/${name}`,
    version,
    description,
    license: 'MIT',
    type: 'module',
    sideEffects: false,
    engines: { node: '>=22.22' },
    exports: Object.fromEntries(Object.entries(entries).map(([entry, base]) => [entry, conditions(base, `./src/${base}.ts`)])),
    imports: { '#internal/*': conditions('internal/*', '@core-backend/internal/*') },
    files: ['dist', 'src', '*.md', 'bench/README.md', '!src/**/*.test.ts', '!src/**/*.fixture.ts'],
    ...rest,
  }
}

/** Whether a path below a package belongs in its tarball: in other words what `files` above says to npm. */
export const isPublished = (path: string): boolean =>
  /^(package\.json|LICENSE|[\w-]+\.md|bench\/README\.md|dist\/.*\.(js|d\.ts)(\.map)?|src\/.*\.ts)$/.test(path) && !/\.(test|fixture)\./.test(path)

export const buildConfig = `{ "extends": "../../../tsconfig.build.json" }\n`
