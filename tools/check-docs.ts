// The docstring is the documentation that an editor shows: an exported name without one is an undocumented promise, and an `any` is a promise of nothing.
// TypeScript 7 has no classic API to ask; under isolatedDeclarations the source text itself states every public type, so the text is read.
import { dirname, join } from 'node:path'
import { isFile, packages, read } from './workspace.ts'

export const claim = 'Every exported symbol has a docstring, and no public signature has any'

export function check(root: string): string[] {
  const faults = packages(root).flatMap(({ dir, manifest }) =>
    Object.values(manifest.exports ?? {}).flatMap((conditions) => {
      const entry = join(dir, conditions['@core-backend/source'] ?? '')
      return isFile(root, entry) ? [...exportsOf(root, entry)].flatMap(([name, file]) => symbolFaults(root, name, file)) : []
    }),
  )
  return [...new Set(faults)]
}

/** The exported names of a file, each with the file that declares it under the name it has there. */
function exportsOf(root: string, file: string): Map<string, string> {
  const source = read(root, file)
  const found = new Map<string, string>()
  for (const [, name = ''] of source.matchAll(/^export (?:declare |abstract |async )*(?:function\*?|class|const|let|interface|type|enum|namespace) (\w+)/gm))
    found.set(name, file)
  if (/^export (default|\*)/m.test(source)) found.set('*', file)
  for (const [, list = '', specifier] of source.matchAll(/^export (?:type )?\{([^}]*)\}(?: from '([^']+)')?/gm))
    for (const item of list.split(',')) {
      const name = item.replaceAll(/\btype\b|\s+as\s+\w+|\/\*.*?\*\//g, '').trim()
      if (name !== '') found.set(name, declaring(root, specifier === undefined ? importing(root, file, name) : target(file, specifier), name))
    }
  return found
}

/** Follows re-exports to the file in which `name` is declared. */
function declaring(root: string, file: string, name: string): string {
  if (!isFile(root, file) || declaration(name).test(read(root, file))) return file
  return exportsOf(root, file).get(name) ?? file
}

function importing(root: string, file: string, name: string): string {
  const specifier = new RegExp(`^import [^']*\\b${name}\\b[^']* from '([^']+)'`, 'm').exec(read(root, file))?.[1]
  return specifier === undefined ? file : target(file, specifier)
}

const target = (file: string, specifier: string): string =>
  specifier.startsWith('#internal/') ? `${specifier.slice(1)}.ts` : specifier.startsWith('.') ? join(dirname(file), specifier) : specifier

const declaration = (name: string): RegExp =>
  new RegExp(`^(?:export )?(?:declare |abstract |async )*(?:function\\*?|class|const|let|interface|type|enum|namespace) ${name}\\b`, 'm')

function symbolFaults(root: string, name: string, file: string): string[] {
  if (!isFile(root, file)) return [] // A name handed on from a dependency is documented there.
  if (name === '*') return [`${file} has a default or a star export: export names`]
  const source = read(root, file)
  const start = declaration(name).exec(source)?.index
  if (start === undefined) return [`${file} exports ${name}, which it does not declare`]
  const before = source.slice(0, start).trimEnd()
  const documented = before.endsWith('*/') && before.slice(before.lastIndexOf('/*')).startsWith('/**')
  const text = bare(source.slice(start))
  return [...(documented ? [] : [`${file} exports ${name} without a docstring`]), ...(anyType.test(text) ? [`${file} has any in ${name}: write unknown`] : [])]
}

const anyType = /(?<![.\w])any\b(?!\s*[:(?])/

/** A declaration without comments and strings, up to the next one. */
function bare(source: string): string {
  const next = source.slice(1).search(/^(?:export|import|declare|async|function|class|const|let|interface|type|enum|namespace|\/\*\*|for|if)/m)
  return source.slice(0, next === -1 ? undefined : next + 1).replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*$|'[^'\n]*'|`[^`]*`/gm, '')
}
