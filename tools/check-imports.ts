// Packages compose by shape. One import between two of them, or one test helper reached from production code, is invisible in the workspace and breaks
// whoever installs a single package. oxfmt keeps every import at the beginning of a line, which is what lets a pattern find them all.
import { builtinModules } from 'node:module'
import { dirname, join } from 'node:path'
import { files, isFile, isTest, type Package, packages, read } from './workspace.ts'

export const claim = 'No package imports another, and nothing that runs in production imports a test helper'

const statement = /^(?:import|export)\b(?:[\w\s{},*$]*?\bfrom\s*|\s*)'([^']+)'/gm
const dynamic = /^(?!\s*(?:\*|\/\/)).*?\bimport\('([^']+)'\)/gm
const type = /^(?:import|export) type\b/

export interface Import {
  specifier: string
  typeOnly: boolean
  dynamic: boolean
}

export function importsOf(source: string): Import[] {
  return [
    ...[...source.matchAll(statement)].map(([text, specifier = '']) => ({ specifier, typeOnly: type.test(text), dynamic: false })),
    ...[...source.matchAll(dynamic)].map(([, specifier = '']) => ({ specifier, typeOnly: false, dynamic: true })),
  ]
}

/** `@scope/name/sub` and `name/sub` are reached through the package `@scope/name` or `name`. */
export const packageOf = (specifier: string): string => specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/')

export function check(root: string): string[] {
  return [
    ...packages(root).flatMap((pkg) => [...packageFaults(root, pkg), ...indexFaults(root, pkg)]),
    ...files(root, 'internal').flatMap((file) => faultsOf(root, file, (specifier) => (/^\.\/[\w-]+\.ts$/.test(specifier) ? '' : 'internal/ stands alone'))),
    ...files(root, 'apps').flatMap((file) => (isTest(file) ? [] : faultsOf(root, file, helper))),
  ]
}

function faultsOf(root: string, file: string, fault: (specifier: string) => string): string[] {
  if (!file.endsWith('.ts')) return []
  const outside = importsOf(read(root, file)).filter(({ specifier }) => !specifier.startsWith('node:'))
  return outside.map(({ specifier }) => [specifier, fault(specifier)]).flatMap(([specifier, why]) => (why ? [`${file} imports ${specifier}: ${why}`] : []))
}

const helper = (specifier: string): string =>
  /(^|\/)tests\/|\.(?:test|fixture)\.ts$|^@core-backend\/(testkit|[\w-]+\/testing)/.test(specifier) ? 'a test helper' : ''

function packageFaults(root: string, { dir, manifest }: Package): string[] {
  const installed = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })
  return files(root, join(dir, 'src')).flatMap((file) =>
    faultsOf(root, file, (specifier) => {
      if (builtinModules.includes(specifier)) return 'write it with node:'
      if (specifier.startsWith('.')) {
        const target = join(dirname(file), specifier)
        if (!target.startsWith(join(dir, 'src/'))) return isTest(file) && !target.startsWith('packages/') ? '' : 'it lies outside the package'
        return isTest(file) ? '' : helper(specifier)
      }
      if (specifier.startsWith('#internal/')) return ''
      const name = packageOf(specifier)
      if (name.startsWith('@core-backend/') && !(isTest(file) && [manifest.name, '@core-backend/testkit'].includes(name))) return 'packages compose by shape'
      return isTest(file) || installed.includes(name) ? '' : 'not among its dependencies or peers'
    }),
  )
}

/** index.ts says what a package exports, by name, and reaches no client that the user may not have installed. */
function indexFaults(root: string, { dir, manifest }: Package): string[] {
  const index = join(dir, 'src/index.ts')
  if (!isFile(root, index)) return [`${index} is missing`]
  const rest = read(root, index)
    .replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '')
    .replaceAll(/^export (?:type )?\{[^}]*\} from '[^']+'$/gm, '')
  const logic = rest.trim() === '' ? [] : [`${index} has more than named exports from other files: ${rest.trim().split('\n', 1)[0]}`]
  const peers = Object.keys(manifest.peerDependencies ?? {})
  const reached = new Set([index])
  for (const file of reached) {
    const near = importsOf(read(root, file)).map(({ specifier }) => join(dirname(file), specifier))
    for (const target of near) if (isFile(root, target)) reached.add(target)
  }
  const clients = [...reached].flatMap((file) =>
    importsOf(read(root, file))
      .filter((found) => !found.dynamic && peers.includes(packageOf(found.specifier)))
      .map(({ specifier }) => `${index} reaches ${specifier} through ${file}: an optional peer belongs to the entry point of its driver`),
  )
  return [...logic, ...clients]
}
