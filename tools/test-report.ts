// A reporter of node:test that says little: a line for what passed at the top, all about what failed where it happened, and its names once more at the end. In a quick
// run it names the cases that take too long for one: told, not refused, since a slow machine is no mistake.
import { relative } from 'node:path'
import { inspect } from 'node:util'

interface Event {
  type: string
  data: {
    name: string
    nesting: number
    file?: string
    line?: number
    message?: string
    details?: { duration_ms: number; type?: string; error?: Error & { failureType?: string } }
  }
}

const quickMs = Number(process.env['TEST_QUICK_MS'] ?? Infinity)

const indented = (text: string): string => text.replaceAll(/^/gm, '    ')

/** Yields lines as they come, and the failures again when the run is over. */
export default async function* report(source: AsyncIterable<Event>): AsyncGenerator<string> {
  /** Names from the outermost suite down to the test at hand. */
  const path: string[] = []
  const failures: string[] = []
  const slow: string[] = []
  const named = (name: string, nesting: number): string => [...path.slice(0, nesting), name].join(' > ')
  for await (const { type, data } of source) {
    if (type === 'test:start') path.splice(data.nesting, path.length, data.name)
    if (type === 'test:pass' && data.nesting === 0) yield `✔ ${data.name} (${Math.round(data.details!.duration_ms)} ms)\n`
    if (type === 'test:pass' && data.details!.type !== 'suite' && data.details!.duration_ms > quickMs)
      slow.push(`${named(data.name, data.nesting)} (${Math.round(data.details!.duration_ms)} ms)\n`)
    if (type === 'test:stdout' || type === 'test:stderr') yield data.message!
    const error = type === 'test:fail' ? data.details?.error : undefined
    if (!error || error.failureType === 'subtestsFailed') continue
    const at = data.file === undefined ? '' : `\n    at ${relative(process.cwd(), data.file)}:${data.line}`
    const failure = `✖ ${named(data.name, data.nesting)}${at}\n`
    failures.push(failure)
    const cause = error.cause ?? error
    yield `${failure}${indented(cause instanceof Error && cause.cause === undefined ? String(cause.stack) : inspect(cause, { depth: 5 }))}\n`
  }
  if (slow.length > 0) yield `\nOver ${quickMs} ms, which belongs in a .servers.test.ts:\n${slow.join('')}`
  if (failures.length > 0) yield `\nFailed:\n${failures.join('')}`
}
