// A README's code is a file of examples/ that the tests run. This file knows the two conventions: `<!-- examples/outbox.ts -->` before a code block names
// the file (or `examples/outbox.ts#name` a region of it), and the file's last comment, `// Prints:`, is what it writes when it runs.
import { read } from './workspace.ts'

export interface Block {
  /** `examples/outbox.ts`; absent when the block names no file. */
  file?: string
  /** The part between `// #region name` and `// #endregion`; absent for `readme`, or the whole file where it has no such region. */
  region?: string
  code: string
  line: number
}

/** The TypeScript and JavaScript blocks of a Markdown text. */
export function blocksOf(markdown: string): Block[] {
  const found = markdown.matchAll(/^(?:<!-- (\S+?)(?:#(\S+))? -->\n+)?```(?:ts|typescript|js|javascript)\n([\s\S]*?)^```$/gm)
  return [...found].map(({ 1: file, 2: region, 3: code = '', index }) => ({
    ...(file !== undefined && { file }),
    ...(region !== undefined && { region }),
    code,
    line: markdown.slice(0, index).split('\n').length,
  }))
}

/** What a block that names this file and region has to be. */
export function shown(source: string, region?: string): string | undefined {
  const match = new RegExp(`^([ \\t]*)// #region ${region ?? 'readme'}\\n([\\s\\S]*?)^[ \\t]*// #endregion`, 'm').exec(source)
  if (match === null) return region === undefined ? source : undefined
  const [, indent = '', text = ''] = match
  return text.replaceAll(new RegExp(`^${indent}`, 'gm'), '')
}

/** What the example says that it prints: the lines of its last comment after `// Prints:`. */
export function prints(source: string): string | undefined {
  const match = /^\/\/ Prints:\n((?:\/\/.*\n?)*)\s*$/m.exec(source)
  return match?.[1]?.replaceAll(/^\/\/ ?/gm, '').trim()
}

/** The example files that a README shows. */
export const examplesOf = (root: string, readme: string): string[] => [...new Set(blocksOf(read(root, readme)).flatMap(({ file }) => file ?? []))]
