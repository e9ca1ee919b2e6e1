// What every benchmark of the house shares: cases run in processes of their own, interleaved, seven rounds; what counts is the ratio to the baseline, round by round.
import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'

/** One contestant. Runs in a process of its own and gives a figure: operations a second, or whatever the group's unit says. */
export interface Case {
  /** What it keeps, confirms or leaves out: a faster row that promises less must say so. */
  readonly about: string
  run(): Promise<number>
}

/** Cases that do the same work. */
export interface Group {
  readonly title: string
  readonly unit: string
  /** The case that ratios are taken against. */
  readonly baseline: string
  /** `higher` for rates, `lower` for times and sizes. */
  readonly better: 'higher' | 'lower'
  readonly goal?: string
  readonly cases: Readonly<Record<string, Case>>
}

export interface Suite {
  readonly title: string
  readonly about: string
  readonly groups: Readonly<Record<string, Group>>
  /** Folder of a private project with pinned peers, installed when it is not. */
  readonly peers?: string
  /** For Node, beside `--expose-gc`. */
  readonly flags?: readonly string[]
  /** Starts what the cases need; what it gives is in their environment. */
  setup?(): Promise<{ env: Readonly<Record<string, string>>; versions?: string; close(): Promise<void> }>
}

export interface SuiteRun {
  readonly file: string
  readonly rounds: number
  /** Only these groups. */
  readonly only: readonly string[]
}

/** Runs a suite and writes its tables beside it. */
export async function runSuite(suite: Suite, { file, rounds, only }: SuiteRun): Promise<void> {
  if (suite.peers) await install(suite.peers)
  const world = await suite.setup?.()
  const sections: string[] = []
  try {
    for (const [name, group] of Object.entries(suite.groups)) {
      if (only.length > 0 && !only.includes(name)) continue
      const figures = new Map<string, number[]>(Object.keys(group.cases).map((one) => [one, []]))
      for (let round = 0; round < rounds; round++)
        for (const [one, list] of figures) {
          list.push(await inProcess(file, name, one, world?.env ?? {}, suite.flags))
          process.stdout.write(`${name}, round ${round + 1} of ${rounds}, ${one}: ${format(list.at(-1)!)} ${group.unit}\n`)
        }
      sections.push(table(group, figures, rounds))
    }
  } finally {
    await world?.close()
  }
  const text = [`# ${suite.title}\n\n${suite.about}\n`, ...sections, `\n${conditions(world?.versions)}\n`].join('\n')
  process.stdout.write(`\n${text}\n`)
  if (only.length === 0 && rounds >= 7) writeFileSync(join(dirname(file), 'README.md'), text)
}

function table(group: Group, figures: ReadonlyMap<string, readonly number[]>, rounds: number): string {
  const base = figures.get(group.baseline)!
  const rows = Object.entries(group.cases).map(([name, { about }]) => {
    const list = figures.get(name)!
    const ratios = list.map((value, i) => value / base[i]!).toSorted((a, b) => a - b)
    const spread = name === group.baseline ? '1' : `${median(ratios).toFixed(2)} (${ratios[0]!.toFixed(2)} to ${ratios.at(-1)!.toFixed(2)})`
    return `| ${name} | ${format(median(list))} | ${spread} | ${about} |`
  })
  const goal = group.goal === undefined ? '' : ` Goal: ${group.goal}.`
  const head = `## ${group.title}\n\n${group.unit}, ${group.better} is better; median of ${rounds}, ratio to ${group.baseline} round by round (least to most).${goal}\n`
  return [head, `| | ${group.unit} | ratio | |`, '|---|---|---|---|', ...rows, ''].join('\n')
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

const format = (value: number): string => (value >= 1_000 ? Math.round(value).toLocaleString('en') : value.toPrecision(3))

function conditions(versions = ''): string {
  const cpu = cpus()
  return `Node ${process.versions.node}${versions === '' ? '' : `, ${versions}`}; ${cpu.length} cores of ${cpu[0]?.model.trim() ?? 'unknown make'}; ${new Date().toISOString().slice(0, 10)}. Run it yourself: \`npm run bench\`.`
}

/** The version of a package installed in a peers' folder. */
export function versionOf(peers: string, name: string): string {
  const { version } = JSON.parse(readFileSync(join(peers, 'node_modules', name, 'package.json'), 'utf8')) as { version: string }
  return `${name} ${version}`
}

async function install(folder: string): Promise<void> {
  if (existsSync(join(folder, 'node_modules'))) return
  await run('npm', ['ci', '--prefix', folder], {})
}

async function inProcess(file: string, group: string, name: string, env: Readonly<Record<string, string>>, flags: readonly string[] = []): Promise<number> {
  const child = join(import.meta.dirname, 'child.ts')
  const out = await run(process.execPath, ['--conditions=@core-backend/source', '--expose-gc', ...flags, child, file, group, name], env)
  const figure = Number(/^figure (\S+)$/m.exec(out)?.[1])
  if (!Number.isFinite(figure)) throw new Error(`${group} ${name} gave no figure:\n${out}`)
  return figure
}

function run(command: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()))
    child.on('error', reject)
    child.on('exit', (code, signal) => (code === 0 ? resolve(out) : reject(new Error(`${command} ${args.join(' ')} ended with ${code ?? signal}\n${out}`))))
  })
}
