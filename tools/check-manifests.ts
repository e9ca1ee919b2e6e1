// A package whose package.json differs from the others publishes wrongly, and nobody sees it in the workspace, where the source condition hides it.
import { globSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { buildConfig, optionalKeys, template } from './manifest.ts'
import { isFile, packages, read, readManifest } from './workspace.ts'

export const claim = 'Every package.json is the template'

export function check(root: string): string[] {
  const faults = packages(root).flatMap(({ dir, name }) => {
    const text = read(root, join(dir, 'package.json'))
    const manifest = JSON.parse(text) as Record<string, unknown> & ReturnType<typeof readManifest>
    const entries = entriesOf(manifest.exports)
    const rest = Object.fromEntries(optionalKeys.filter((key) => key in manifest).map((key) => [key, manifest[key]]))
    const { version = '0.1.0', description } = manifest
    const expected = template({ name, version, description: typeof description === 'string' ? description : '', entries, rest })
    return [
      ...differences(manifest, expected).map((difference) => `${dir}/package.json ${difference}`),
      ...missing(root, [`${dir}/README.md`, ...Object.values(entries).map((base) => `${dir}/src/${base}.ts`)]),
      ...('.' in entries ? [] : [`${dir}/package.json has no entry point "."`]),
      ...peerFaults(manifest).map((fault) => `${dir}/package.json ${fault}`),
      ...(isFile(root, `${dir}/tsconfig.build.json`) && read(root, `${dir}/tsconfig.build.json`) === buildConfig
        ? []
        : [`${dir}/tsconfig.build.json must be ${buildConfig.trim()}`]),
    ]
  })
  const unpublished = ['package.json', ...globSync('{apps/*,examples}/package.json', { cwd: root })]
  return [...faults, ...unpublished.flatMap((file) => unpinned(root, dirname(file)))]
}

const missing = (root: string, paths: string[]): string[] => paths.filter((path) => !isFile(root, path)).map((path) => `${path} is missing`)

function entriesOf(entries: Record<string, Record<string, string>> = {}): Record<string, string> {
  return Object.fromEntries(
    Object.entries(entries).map(([entry, conditions]) => [entry, /^\.\/src\/(.+)\.ts$/.exec(conditions['@core-backend/source'] ?? '')?.[1] ?? 'index']),
  )
}

function differences(actual: Record<string, unknown>, expected: Record<string, unknown>): string[] {
  const keys = [...new Set([...Object.keys(expected), ...Object.keys(actual)])]
  const different = keys.filter((key) => JSON.stringify(actual[key]) !== JSON.stringify(expected[key]))
  return different.map((key) => (key in expected ? `"${key}" must be ${JSON.stringify(expected[key])}` : `has "${key}", which the template has not`))
}

function peerFaults({ dependencies = {}, peerDependencies = {}, peerDependenciesMeta = {} }: ReturnType<typeof readManifest>): string[] {
  return [
    ...Object.keys({ ...dependencies, ...peerDependencies })
      .filter((name) => name.startsWith('@core-backend/'))
      .map((name) => `depends on ${name}: packages compose by shape`),
    ...Object.entries(peerDependencies).flatMap(([name, range]) => [
      ...(range.startsWith('>=') ? [] : [`asks for ${name}@${range}: a peer has an open range (>=)`]),
      ...(peerDependenciesMeta[name]?.optional ? [] : [`has the peer ${name}, which is not optional`]),
    ]),
  ]
}

/** The workspace's own tools and clients are exact versions, so that two clones of one commit run the same. */
function unpinned(root: string, dir: string): string[] {
  const { dependencies, devDependencies, optionalDependencies } = readManifest(root, dir)
  return Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies })
    .filter(([name, range]) => !name.startsWith('@core-backend/') && !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(range))
    .map(([name, range]) => `${join(dir, 'package.json')} asks for ${name}@${range}: pin the exact version`)
}
