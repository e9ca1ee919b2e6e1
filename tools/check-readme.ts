// Prose rots where nothing runs it. Every TypeScript or JavaScript block in the README of the root or a package is a real file of examples/, which the tests run against what it says that it prints,
// and every relative link leads somewhere; those in what a package publishes lead to what it publishes too, since npm and its users have nothing else.
import { dirname, join, relative } from 'node:path'
import { blocksOf, prints, shown } from './examples.ts'
import { isPublished } from './manifest.ts'
import { files, isFile, packages, read } from './workspace.ts'

export const claim =
  'Every ts or js block in the README of the root or a package is a file that runs, every link leads to a file, of a package into its tarball'

export function check(root: string): string[] {
  const readmes = ['README.md', ...packages(root).map(({ dir }) => join(dir, 'README.md'))].filter((file) => isFile(root, file))
  const documents = files(root).filter((file) => file.endsWith('.md') && !file.startsWith('.changeset/'))
  return [...readmes.flatMap((file) => blockFaults(root, file)), ...documents.flatMap((file) => linkFaults(root, file)), ...exampleFaults(root)]
}

function blockFaults(root: string, readme: string): string[] {
  return blocksOf(read(root, readme)).flatMap(({ file, region, code, line }) => {
    const where = `${readme}:${line}`
    if (file === undefined) return [`${where} a code block names no file: put <!-- examples/….ts --> before it`]
    if (!file.startsWith('examples/') || !isFile(root, file)) return [`${where} names ${file}, which is not a file of examples/`]
    const expected = shown(read(root, file), region)
    if (expected === undefined) return [`${where} names the region ${region}, which ${file} has not`]
    return code.trim() === expected.trim()
      ? []
      : [`${where} differs from ${file}${region === undefined ? '' : `#${region}`}: ${firstDifference(code, expected)}`]
  })
}

function firstDifference(actual: string, expected: string): string {
  const lines = actual.trim().split('\n')
  const wanted = expected.trim().split('\n')
  const i = Array.from({ length: Math.max(lines.length, wanted.length) }, (_, n) => n).find((n) => lines[n] !== wanted[n]) ?? 0
  return `has ${JSON.stringify(lines[i] ?? '')}, the file ${JSON.stringify(wanted[i] ?? '')}`
}

function linkFaults(root: string, file: string): string[] {
  const links = [...read(root, file).matchAll(/\]\((?!https?:|mailto:|#)([^)\s#]+)[^)]*\)/g)].map(([, link = '']) => link)
  const known = new Set(files(root).flatMap((path) => [path, ...ancestors(path)]))
  const dir = packages(root).find((pkg) => file.startsWith(`${pkg.dir}/`))?.dir
  const within = dir !== undefined && isPublished(relative(dir, file))
  return links.flatMap((link) => {
    const target = join(dirname(file), link).replace(/\/$/, '')
    if (!known.has(target)) return [`${file} links to ${link}, which does not exist`]
    return within && !isPublished(relative(dir, target)) ? [`${file} links to ${link}, which is not in the package's tarball: name it in words`] : []
  })
}

const ancestors = (path: string): string[] => path.split('/').map((_, i, parts) => parts.slice(0, i).join('/') || '.')

function exampleFaults(root: string): string[] {
  const examples = files(root, 'examples').filter((file) => /^examples\/[\w-]+\.ts$/.test(file))
  return examples.filter((file) => prints(read(root, file)) === undefined).map((file) => `${file} does not end in "// Prints:" and the lines that it prints`)
}
