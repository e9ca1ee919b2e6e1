/** One variable of a package's table `variables`: what it is called, what it may be, what it is without being set. */
export interface Variable {
  name: string
  type: 'string' | 'url' | 'integer' | 'number' | 'boolean' | 'duration' | 'bytes' | 'list' | 'oneOf'
  about: string
  /** As it would be written in the environment. Absent: the setting is `undefined` when the variable is not set. */
  default?: string
  /** Masked in every message. */
  secret?: boolean
  /** Other variables read, in order, when this one is not set. */
  fallback?: readonly string[]
  /** For `oneOf`. */
  values?: readonly string[]
  min?: number
  max?: number
}

export type Variables = Record<string, Variable>

interface Parsed {
  string: string
  url: string
  integer: number
  number: number
  boolean: boolean
  duration: number
  bytes: number
  list: readonly string[]
}
type Value<V extends Variable> = V extends { type: 'oneOf'; values: readonly (infer T)[] } ? T : V['type'] extends keyof Parsed ? Parsed[V['type']] : string

/** The plain object that `fromEnv` returns for a table of variables: durations in ms, sizes in bytes. */
export type Settings<T extends Variables> = { readonly [K in keyof T]: T[K] extends { default: string } ? Value<T[K]> : Value<T[K]> | undefined }

export interface SettingsFault {
  variable: string
  value: string
  allowed: string
}

/** All faults of one reading of the environment, in one error. Secrets are masked. */
export class SettingsError extends Error {
  override readonly name = 'SettingsError'
  readonly code: string
  readonly retryable = false
  readonly faults: readonly SettingsFault[]
  constructor(code: string, faults: readonly SettingsFault[]) {
    super(`Bad settings: ${faults.map((f) => `${f.variable}=${f.value} (${f.allowed})`).join('; ')}`)
    this.code = code
    this.faults = faults
  }
}

const units: Record<string, number> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const sizes: Record<string, number> = { b: 1, kb: 1_000, mb: 1_000_000, gb: 1_000_000_000, kib: 1_024, mib: 1_048_576, gib: 1_073_741_824 }
const booleans: Record<string, boolean> = { true: true, '1': true, yes: true, on: true, false: false, '0': false, no: false, off: false }

/** Each parser gives `undefined` for what it does not take; the text says what it does. */
const parsers: Record<Variable['type'], { allowed: (v: Variable) => string; parse: (text: string, v: Variable) => unknown }> = {
  string: { allowed: () => 'text', parse: (text) => text },
  url: { allowed: () => 'a URL such as scheme://host:port/path', parse: (text) => (/^[a-z][a-z0-9+.-]*:\S*$/i.test(text) ? text : undefined) },
  integer: { allowed: (v) => `an integer${range(v)}`, parse: (text, v) => (/^[+-]?\d+$/.test(text) ? within(Number(text), v) : undefined) },
  number: {
    allowed: (v) => `a number${range(v)}`,
    parse: (text, v) => (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? within(Number(text), v) : undefined),
  },
  boolean: { allowed: () => 'true or false', parse: (text) => booleans[text.toLowerCase()] },
  duration: { allowed: (v) => `a duration such as 500ms, 30s, 5m, 1h, or an integer in ms${range(v)}`, parse: (text, v) => scaled(text, units, v) },
  bytes: { allowed: (v) => `a size such as 64KiB, 1MB, or an integer in bytes${range(v)}`, parse: (text, v) => scaled(text, sizes, v) },
  list: {
    allowed: () => 'items separated by commas',
    parse: (text) =>
      Object.freeze(
        text
          .split(',')
          .map((item) => item.trim())
          .filter((item) => item !== ''),
      ),
  },
  oneOf: { allowed: (v) => `one of ${v.values!.join(', ')}`, parse: (text, v) => (v.values!.includes(text) ? text : undefined) },
}

/** Reads, checks and returns a frozen plain object; opens nothing. An empty variable counts as not set. Throws one {@link SettingsError} with every fault. */
export function readSettings<const T extends Variables>(table: T, code: string, env: Record<string, string | undefined>, prefix = ''): Settings<T> {
  const faults: SettingsFault[] = []
  const settings: Record<string, unknown> = {}
  for (const [key, variable] of Object.entries<Variable>(table)) {
    const names = [prefix + variable.name, ...(variable.fallback ?? [])]
    const name = names.find((n) => (env[n] ?? '') !== '') ?? names[0]!
    const text = (env[name] ?? '') === '' ? variable.default : env[name]
    if (text === undefined) {
      settings[key] = undefined
      continue
    }
    const { allowed, parse } = parsers[variable.type]
    settings[key] = parse(text.trim(), variable)
    if (settings[key] === undefined) faults.push({ variable: name, value: variable.secret ? '***' : JSON.stringify(text), allowed: allowed(variable) })
  }
  if (faults.length > 0) throw new SettingsError(code, faults)
  return Object.freeze(settings) as Settings<T>
}

function within(value: number, { min = -Infinity, max = Infinity }: Variable): number | undefined {
  return Number.isFinite(value) && value >= min && value <= max ? value : undefined
}

function range({ min, max }: Variable): string {
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`
  if (min !== undefined) return ` of at least ${min}`
  return max === undefined ? '' : ` of at most ${max}`
}

function scaled(text: string, scale: Record<string, number>, variable: Variable): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text)
  const factor = match?.[2] === '' ? 1 : scale[match?.[2]?.toLowerCase() ?? '']
  return match && factor !== undefined ? within(Math.round(Number(match[1]) * factor), { min: 0, ...variable }) : undefined
}
