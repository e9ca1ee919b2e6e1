import { thrownText } from './thrown.ts'

/** Tells in a process warning of the kind `type` what `who` threw. Never throws itself. */
export const warnOf = (who: string, type: string, thrown: unknown): void => process.emitWarning(`${who} threw: ${thrownText(thrown)}`, type)

/** Calls what only watches. What it throws, and what a promise that it gives where nothing is asked for rejects with, is a warning of the kind `type` and goes no further. */
export function watched(who: string, type: string, call: () => unknown): void {
  const threw = (thrown: unknown): void => warnOf(who, type, thrown)
  try {
    const answer = call()
    if (answer instanceof Promise) answer.catch(threw)
  } catch (error) {
    threw(error)
  }
}

const told = new Set<string>()

/** Calls `warn` the first time that this is to be said. */
function once(what: string, warn: () => void): void {
  if (told.has(what)) return
  if (told.size < 1_000) told.add(what) // names may come from outside
  warn()
}

/** For a failure that nobody asked to hear of: the first of each `what` in a process is a warning, which names the hook. */
export function unheard(hook: string, type: string, what: string, error: unknown): void {
  once(`${type} ${what}`, () => process.emitWarning(`${what}: ${thrownText(error)}. This is told once: hooks.${hook} hears of all`, type))
}

/** Whether a predicate says no. One that throws, gives a promise or is not there has not; of the first two a warning of the kind `type` tells, each once a process. */
export function saysNo(option: string, type: string, ask: () => unknown): boolean {
  try {
    const answer = ask()
    if (!(answer instanceof Promise)) return answer === false
    // Whoever gives it to us waits for nothing.
    answer.catch(() => undefined)
    throw new TypeError(`${option} must give true or false, got a promise`)
  } catch (error) {
    once(`${type} ${option} ${thrownText(error)}`, () => warnOf(option, type, error))
    return false
  }
}
