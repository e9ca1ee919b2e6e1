import type { SqlClient, Transaction } from '#internal/sql'

const ofTransactions = /^\s*(savepoint|release|rollback|commit|end|abort|begin|start)\b/i
const refusals = new WeakMap<SqlClient, (what: string) => Error>()

/**
 * What handlers that share a transaction get of it. Their statements run between each other's, so what one of them rolled back to a savepoint would be undone for the others too,
 * whose records stand: such statements are refused, and `refusal` tells of it though the handler hides the error.
 */
export function sideBySide(tx: Transaction): { view: Transaction; refusal(): Error | undefined } {
  let refusal: Error | undefined
  const refuse = (what: string): Error =>
    (refusal ??= new TypeError(`${what} would take effect for all handlers that share the transaction: it is for handlers in a transaction of their own`))
  const query = (...statement: Parameters<SqlClient['query']>): ReturnType<SqlClient['query']> => {
    const [given] = statement as readonly unknown[]
    const text = typeof given === 'string' ? given : (given as { text?: unknown } | undefined)?.text
    const [, word] = ofTransactions.exec(String(text)) ?? []
    return word === undefined ? tx.query(...statement) : Promise.reject(refuse(word.toUpperCase()))
  }
  const view = Object.create(tx, { query: { value: query } }) as Transaction
  refusals.set(view, refuse)
  return { view, refusal: () => refusal }
}

/** Throws for what `sideBySide` gave. */
export function assertAlone(tx: SqlClient, what: string): void {
  const refuse = refusals.get(tx)
  if (refuse) throw refuse(what)
}
