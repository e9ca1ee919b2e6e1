// The package tables are where a stranger starts. A package that is missing there does not exist for him, and a row without a package is a lie.
import { dirname, join } from 'node:path'
import { isFile, type Package, packages, read } from './workspace.ts'

export const claim = 'The package tables of README.md and ARCHITECTURE.md are the packages'

export function check(root: string): string[] {
  const all = packages(root)
  const long = isFile(root, 'ARCHITECTURE.md') && read(root, 'ARCHITECTURE.md').trimEnd().split('\n').length > 150
  return [
    ...['README.md', 'ARCHITECTURE.md'].flatMap((document) => (isFile(root, document) ? tableFaults(root, document, all) : [`${document} is missing`])),
    ...(long ? ['ARCHITECTURE.md is longer than 150 lines: nobody will read it'] : []),
  ]
}

/** The rows of the table whose first column is headed "Package": its first cell names one, as `messaging` or as a link. */
function tableFaults(root: string, document: string, all: Package[]): string[] {
  const table = /^\| *Package *\|.*\n\|[-:| ]+\n((?:\|.*\n?)*)/im.exec(read(root, document))
  if (table === null) return [`${document} has no table whose first column is "Package"`]
  const heads = cells(table[0].split('\n', 1)[0]!)
  const heart = heads.findIndex((head) => /^heart/i.test(head))
  const rows = (table[1] ?? '').trimEnd().split('\n').filter(Boolean).map(cells)
  const named = rows.map((row) => row[0]!.replaceAll(/[`[\]]|\(.*\)|@core-backend\//g, '').trim())
  return [
    ...all.filter(({ name }) => !named.includes(name)).map(({ name }) => `${document} has no row for ${name}`),
    ...named.filter((name) => !all.some((pkg) => pkg.name === name)).map((name) => `${document} has a row for ${name}, which is no package`),
    ...named.filter((name, i) => named.indexOf(name) !== i).map((name) => `${document} has two rows for ${name}`),
    ...(heart === -1
      ? []
      : rows.flatMap((row, i) =>
          heartFaults(
            root,
            document,
            row[heart] ?? '',
            all.find(({ name }) => name === named[i]),
          ),
        )),
  ]
}

const cells = (row: string): string[] =>
  row
    .replaceAll(/^\||\|\s*$/g, '')
    .split('|')
    .map((cell) => cell.trim())

/** The heart file is named from `src`, or linked. */
function heartFaults(root: string, document: string, cell: string, pkg: Package | undefined): string[] {
  if (pkg === undefined) return []
  const link = /\]\(([^)]+)\)/.exec(cell)?.[1]
  const name = cell.replaceAll('`', '').replace(/^src\//, '')
  const file = link === undefined ? join(pkg.dir, 'src', name) : join(dirname(document), link)
  return isFile(root, file) ? [] : [`${document} gives ${name} as the heart file of ${pkg.name}, which is no file`]
}
