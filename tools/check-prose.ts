// What is written here is read everywhere else: a path of the machine on which it was written, or the host of its package mirror, helps nobody there.
import { files, read } from './workspace.ts'

export const claim = 'No file names a path of a machine or a registry host, none has trailing blanks'

const rules: [RegExp, string][] = [
  [/(?<![\w.$}~)/-])\/(?:work|tmp|home|root|Users)\/[\w.-]/, 'names a path of a machine'],
  [/\b(?:registry\.npmjs\.org|registry\.yarnpkg\.com|(?:[\w-]+\.)*(?:artifactory|jfrog|verdaccio|nexus)[\w-]*\.[\w.-]+)/i, 'names a registry host'],
  [/[ \t]$/, 'ends in a blank'],
]
const text = /\.(ts|js|json|md|ya?ml|sh|sql|ini|conf)$|^[^.]+$|(^|\/)\.\w+rc$/
const exempt = new Set(['package-lock.json', 'tools/checks.test.ts'])

export function check(root: string): string[] {
  return files(root)
    .filter((file) => text.test(file) && !exempt.has(file))
    .flatMap((file) =>
      read(root, file)
        .split('\n')
        .flatMap((line, i) => rules.flatMap(([pattern, fault]) => (pattern.test(line) ? [`${file}:${i + 1} ${fault}: ${line.trim().slice(0, 120)}`] : []))),
    )
}
