// What the tools know of the workspace: its packages, its files and how to run a command in it. Written once, so that no tool finds it out in its own way.
import { spawn } from 'node:child_process'
import { existsSync, globSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'

export const repository: string = join(import.meta.dirname, '..')

export interface Manifest {
  name: string
  version?: string
  private?: boolean
  exports?: Record<string, Record<string, string>>
  dependencies?: Record<string, string>
  devDependencies?: Record<string, string>
  optionalDependencies?: Record<string, string>
  peerDependencies?: Record<string, string>
  peerDependenciesMeta?: Record<string, { optional?: boolean }>
}

/** A public package: what lies under `packages/<family>/<name>`. */
export interface Package {
  /** `messaging` */
  name: string
  /** `packages/flow/messaging` */
  dir: string
  manifest: Manifest
}

export const read = (root: string, file: string): string => readFileSync(join(root, file), 'utf8')
export const readManifest = (root: string, dir: string): Manifest => JSON.parse(read(root, join(dir, 'package.json'))) as Manifest

export function packages(root: string): Package[] {
  const dirs = globSync('packages/*/*/package.json', { cwd: root }).map((file) => file.slice(0, -'/package.json'.length))
  return dirs.toSorted().map((dir) => ({ dir, name: dir.split('/').at(-1)!, manifest: readManifest(root, dir) }))
}

const generated = new Set(['node_modules', 'dist', 'coverage', '.git', '.data', '.services'])

/** Every file below `dir` that a person wrote, as paths from the root. */
export function files(root: string, dir = ''): string[] {
  if (!existsSync(join(root, dir))) return []
  return readdirSync(join(root, dir), { withFileTypes: true })
    .filter((entry) => !generated.has(entry.name))
    .flatMap((entry) => (entry.isDirectory() ? files(root, join(dir, entry.name)) : entry.isFile() ? [join(dir, entry.name)] : []))
    .toSorted()
}

export const isTest = (file: string): boolean => /\.(test|fixture)\.ts$/.test(file)
export const isFile = (root: string, file: string): boolean => statSync(join(root, file), { throwIfNoEntry: false })?.isFile() ?? false

export interface Ran {
  ok: boolean
  /** What it wrote to both streams, in the order of arrival. */
  output: string
  ms: number
}

export interface RunOptions {
  cwd?: string
  env?: Record<string, string>
  /** Guards against a command that hangs. @default 600_000 */
  timeoutMs?: number
}

/** Runs a command to its end; the tools of `node_modules/.bin`, and so Node 24, come first. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const { cwd = repository, env = {}, timeoutMs = 600_000 } = options
  const started = performance.now()
  return new Promise((resolve) => {
    const path = [join(repository, 'node_modules/.bin'), process.env['PATH']].join(delimiter)
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, PATH: path, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      signal: AbortSignal.timeout(timeoutMs),
    })
    let output = ''
    const end = (ok: boolean): void => resolve({ ok, output, ms: performance.now() - started })
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text))
    child.on('error', (error) => {
      output += `Cannot run ${command}: ${error.message}\n`
      end(false)
    })
    child.on('close', (code) => end(code === 0))
  })
}

/** Runs `work` on every item, two at a time (the gate is measured on two cores); results are in the items' order. */
export async function pairwise<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  const queue = items.entries()
  const lane = async (): Promise<void> => {
    for (const [i, item] of queue) results[i] = await work(item)
  }
  await Promise.all([lane(), lane()])
  return results
}
