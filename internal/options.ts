// Every package comes by here, so that a Node that is too old is told at the import, and not by whatever fails first.
if (typeof Map.groupBy !== 'function') throw new Error(`core-backend needs Node 22.22 or later, and this is ${process.version}`)

/** Throws when a value is not what is asked for: `TypeError` for another type, `RangeError` for a value of this type that is not allowed. `name` is what the error calls it. */
export type Check = (value: unknown, name: string) => void

/** A check for every option of `T`, so that an option without one does not compile. */
export type Checks<T> = { readonly [K in keyof T]-?: Check }

/**
 * Checks an object of options against the table of all that there are; those absent or `undefined` pass, unless they are `needed`.
 * Throws for the first that does not fit, and `TypeError` for a name that is not in the table. An instance of a class may have more than its options.
 */
export function checkOptions(where: string, given: unknown, checks: Readonly<Record<string, Check>>, needed: readonly string[] = []): void {
  checkEach(given, `${where}: options`, `${where}: `, checks, needed)
}

function checkEach(given: unknown, what: string, prefix: string, checks: Readonly<Record<string, Check>>, needed: readonly string[]): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    const wanted = needed.length > 0 ? `an object with ${needed.join(', ')}` : 'an object'
    return refuse(TypeError, what, wanted, given)
  }
  const options = given as Record<string, unknown>
  if (isPlain(given)) {
    for (const name in options)
      if (!Object.hasOwn(checks, name)) throw new TypeError(`${prefix}${name} is not an option; there are ${Object.keys(checks).join(', ')}`)
  }
  for (const name in checks) {
    const value = options[name]
    if (value !== undefined || needed.includes(name)) checks[name]!(value, prefix + name)
  }
}

function refuse(Kind: typeof TypeError | typeof RangeError, name: string, allowed: string, value: unknown): never {
  throw new Kind(`${name} must be ${allowed}, got ${shown(value)}`)
}

/** Values of one `typeof`, of which only some may be allowed. */
function of<T>(type: string, allowed: string, fits: (value: T) => boolean = () => true): Check {
  return (value, name) => {
    if (typeof value !== type) refuse(TypeError, name, allowed, value)
    if (!fits(value as T)) refuse(RangeError, name, allowed, value)
  }
}

export const isBoolean: Check = of('boolean', 'true or false')
export const isString: Check = of('string', 'a string')
export const isFunction: Check = of('function', 'a function')

export const oneOf = (...values: readonly string[]): Check =>
  of<string>('string', values.map((value) => `'${value}'`).join(' or '), (value) => values.includes(value))

/** Finite; the bounds are allowed. */
export const number = (min: number, max: number = Number.MAX_VALUE): Check =>
  of<number>('number', `a number${range(min, max, Number.MAX_VALUE)}`, (n) => n >= min && n <= max)

/** The bounds are allowed. */
export const integer = (min: number, max: number = Number.MAX_SAFE_INTEGER): Check =>
  of<number>('number', `an integer${range(min, max, Number.MAX_SAFE_INTEGER)}`, (n) => Number.isInteger(n) && n >= min && n <= max)

/** A bound that may be absent: an integer, or `Infinity`. */
export const count = (min: number): Check =>
  of<number>('number', `an integer of at least ${min}, or Infinity`, (n) => (Number.isInteger(n) && n >= min) || n === Infinity)

/** Of a timer: Node's wake at once when they are to wait longer than 2^31-1 ms, 24.8 days. */
export const milliseconds = (min: number = 0): Check => number(min, 2 ** 31 - 1)

/** Options within options, of which one is not to exceed another when both are given. */
export const ascending =
  (low: string, high: string, check: Check): Check =>
  (value, name) => {
    check(value, name)
    const { [low]: least, [high]: most } = value as Record<string, number | undefined>
    if (least !== undefined && most !== undefined && least > most)
      throw new RangeError(`${name}.${low} must be at most ${high}, which is ${most}, got ${least}`)
  }

/** What validates data, by shape: an object or a function. */
export const isSchema: Check = (value, name) => {
  const standard = (Object(value) as { '~standard'?: { validate?: unknown } })['~standard']
  if (typeof standard?.validate === 'function') return
  throw new TypeError(`${name} must be a Standard Schema, as those of zod, valibot and arktype are, got ${shown(value)}${hintOf(value)}`)
}

/** An object, of a class or not, with these methods. */
export const having =
  (...methods: readonly string[]): Check =>
  (value, name) => {
    const found = value as Record<string, unknown> | null | undefined
    if (typeof found === 'object' && found !== null && methods.every((method) => typeof found[method] === 'function')) return
    throw new TypeError(`${name} must be an object with ${methods.map((method) => `${method}()`).join(', ')}, got ${shown(value)}${hintOf(value)}`)
  }

const hintOf = (value: unknown): string => (typeof value === 'function' ? '; is a call missing?' : '')

/** Within what a Date can be. */
export const isTime: Check = of<number>('number', 'ms since the epoch', (n) => Math.abs(n) <= 8.64e15)

export const listOf =
  (check: Check): Check =>
  (value, name) => {
    if (!Array.isArray(value)) refuse(TypeError, name, 'an array', value)
    for (const [i, item] of (value as unknown[]).entries()) check(item, `${name}[${i}]`)
  }

/** Options within options. */
export const nested =
  (checks: Readonly<Record<string, Check>>): Check =>
  (value, name) =>
    checkEach(value, name, `${name}.`, checks, [])

export const isSignal: Check = (value, name) => {
  // By shape: a test runner's environment may have an AbortSignal of its own.
  if (typeof (value as AbortSignal | null)?.aborted !== 'boolean') refuse(TypeError, name, 'an AbortSignal', value)
}

export const isClock: Check = having('now', 'monotonic', 'sleep')

function range(min: number, max: number, highest: number): string {
  return max < highest ? ` from ${min} to ${max}` : ` of at least ${min}`
}

const isPlain = (value: object): boolean => [Object.prototype, null].includes(Object.getPrototypeOf(value) as object | null)

/** A value in an error: short, and of an object its shape alone, since values may be secrets. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}…` : value)
  if (typeof value === 'function') return value.name === '' ? 'a function' : `the function ${value.name}`
  if (typeof value !== 'object' || value === null) return String(value)
  if (Array.isArray(value)) return 'an array'
  if (!isPlain(value)) return `an instance of ${value.constructor?.name}`
  const names = Object.keys(value).join(', ')
  return names === '' ? '{}' : `{ ${names.length > 100 ? `${names.slice(0, 100)}…` : names} }`
}
