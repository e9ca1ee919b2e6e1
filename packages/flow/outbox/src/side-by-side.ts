import type { SqlClient, Transaction } from '#internal/sql'

const words = 'savepoint|release|rollback|commit|end|abort|begin|start|prepare\\s+transaction'
const mentioned = new RegExp(`\\b(${words})\\b`, 'i')
const first = new RegExp(`^\\s*(${words})\\b`, 'i')
/** Comments and whatever stands in quotes. */
const asides = /--[^\n]*|\/\*[\s\S]*?\*\/|'(?:[^']|'')*'|"(?:[^"]|"")*"|(\$\w*\$)[\s\S]*?\1/g

interface Shared {
  readonly tx: Transaction
  refuse(what: string): Error
}
const views = new WeakMap<SqlClient, Shared>()

/**
 * What handlers that share a transaction get of it: `query` alone. Their statements run between each other's, so what one of them rolled back to a savepoint would be undone for the
 * others too, whose records stand: such statements are refused, and `refusal` tells of it though the handler hides the error.
 */
export function sideBySide(tx: Transaction): { view: Transaction; refusal(): Error | undefined } {
  let refusal: Error | undefined
  const refuse = (what: string): Error =>
    (refusal ??= new TypeError(`${what} would take effect for all handlers that share the transaction: it is for handlers in a transaction of their own`))
  const view: Transaction = {
    query(...statement) {
      const word = controls(statement[0])
      return word === undefined ? tx.query(...statement) : Promise.reject(refuse(word.toUpperCase()))
    },
  }
  views.set(view, { tx, refuse })
  return { view, refusal: () => refusal }
}

/** The word by which a text controls its transaction, if any of its statements does. */
function controls(given: unknown): string | undefined {
  const text = String(typeof given === 'object' && given !== null ? (given as { text?: unknown }).text : given)
  if (!mentioned.test(text)) return undefined
  return text
    .replaceAll(asides, ' ')
    .split(';')
    .map((statement) => first.exec(statement)?.[1])
    .find((word) => word !== undefined)
}

/** Throws for what `sideBySide` gave. */
export function assertAlone(tx: SqlClient, what: string): void {
  const shared = views.get(tx)
  if (shared) throw shared.refuse(what)
}

/** The transaction behind what `sideBySide` gave; anything else as it is. */
export const underlying = (tx: SqlClient): SqlClient => views.get(tx)?.tx ?? tx
