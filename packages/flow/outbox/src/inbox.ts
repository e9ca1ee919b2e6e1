import { AsyncLocalStorage } from 'node:async_hooks'
import { type SqlClient, type Transaction, assertTransaction } from '#internal/sql'
import { checkOptions, isFunction, isString, shown } from '#internal/options'
import { InboxTooOldError, InboxUnstableIdError } from './errors.ts'
import { firstTime, isStorable } from './message.ts'
import { handlerChecks, inboxChecks, isClient, runnerChecks, signalChecks } from './options.ts'
import { checksCommit } from './pool.ts'
import { postgresInbox } from './postgres-inbox.ts'
import { assertAlone, sideBySide } from './side-by-side.ts'
import type { InboxStore } from './store.ts'

/** What the inbox needs to know of a message. */
export interface InboxMessage {
  id: string
  /** Ms since the epoch. Without it the inbox cannot tell that a message is too old. */
  timestamp?: number | undefined
  /** False when the broker gives the message another id at each delivery. */
  idStable?: boolean | undefined
}

/** Everything has a default. */
export interface InboxOptions<M extends InboxMessage = InboxMessage> {
  /** @default 'public' */
  schema?: string | undefined
  /** @default 'inbox' */
  table?: string | undefined
  /** How long a duplicate is recognised. @default 30 days */
  retentionMs?: number | undefined
  /** How far the clock of a publisher may be ahead of the database's: records are kept that much longer. @default 1 hour */
  clockSkewMs?: number | undefined
  /** Run messages that are older than `retentionMs` and have no record. @default false */
  allowOld?: boolean | undefined
  /** What identifies a message. @default its `id`, refused when `idStable` is false */
  messageId?: ((message: M) => string) | undefined
  /** Instead of PostgreSQL: a memory store, or your own. */
  store?: InboxStore | undefined
}

/** Whether `fn` ran, and what it gave. */
export type Once<T> = { duplicate: false; value: T } | { duplicate: true }

/** Runs a function in a transaction that commits when it resolves and rolls back when it throws. Rejects when it cannot commit. */
export type RunTransaction = <T>(fn: (tx: Transaction) => Promise<T>) => Promise<T>

/** What the adapter does. */
export interface RunnerOptions {
  /**
   * It looks at what COMMIT answers, and rejects when that is ROLLBACK. Then no statement is spent to find out before it, which is a round trip a run.
   * @default true for what `poolTransaction` made, else false
   */
  commitChecked?: boolean | undefined
}

/**
 * The inbox with a transaction of its own for each run: what an event processor takes as its inbox. When `fn` hides that a statement failed, PostgreSQL would answer COMMIT with
 * ROLLBACK, as a result and not as an error: the run rejects with the server's 25P02 instead.
 */
export interface InboxRunner<M extends InboxMessage = InboxMessage> {
  run<T>(message: M, handler: string, fn: (tx: Transaction) => Promise<T>): Promise<Once<T>>
  /**
   * Several handlers in one transaction: `fn` gets the names of those that have not handled the message, and is not called when all have. They may use `tx` side by side, so it has
   * `query` alone, and takes no savepoints nor calls of `once`: the run rejects, though `fn` hides the error.
   */
  runTogether<T>(message: M, handlers: readonly string[], fn: (tx: Transaction, handlers: readonly string[]) => Promise<T>): Promise<Once<T>>
}

type Next<M, C> = (message: M, ctx: C) => unknown

/** Remembers which handler has handled which message. */
export interface Inbox<M extends InboxMessage = InboxMessage> {
  /**
   * Runs `fn` unless this handler has already handled this message; the effect and the record commit together. A concurrent duplicate waits for
   * the first to end. When `fn` throws, what it did is undone, the record with it, and the transaction can go on. Calls of one transaction run in turn. A call within `fn` is
   * known by its asynchronous context: one that a loader or a queue makes in another (`AsyncResource.bind` keeps it) waits for `fn`, which waits for it, for ever.
   * Throws `InboxTooOldError`, `InboxUnstableIdError`, `OutboxSchemaError` when the table is not there, `TypeError` for a pool; the server refuses it outside a transaction (25P01).
   */
  once<T>(tx: Transaction, message: M | string, handler: string, fn: (tx: Transaction) => Promise<T>): Promise<Once<T>>
  /** `once` in a transaction of its own. */
  runner(transaction: RunTransaction, options?: RunnerOptions): InboxRunner<M>
  /**
   * Handlers behind it run once a message, in a transaction of their own, which it sets as `ctx.tx`. A duplicate is not handed on. A run that throws is undone, and so is
   * one whose context then says in `asked` that another run ('retry') or a dead letter ('deadLetter') is to follow, as that of `@core-backend/messaging` does.
   */
  middleware(
    transaction: RunTransaction,
    options: { handler: string },
  ): <Message extends M, C extends object>(next: Next<Message, C & { tx: Transaction }>) => (message: Message, ctx: C) => Promise<void>
  /** One SQL command that makes the table; may be run again, and by several processes at once. */
  schema(): string
  /** Deletes the records that are no longer needed, in steps. To be run now and then. Returns how many. */
  cleanup(db: SqlClient, options?: { signal?: AbortSignal }): Promise<number>
}

const sweepRows = 10_000

interface Scope {
  tx: Transaction
  outer: Scope | undefined
}

const scopes = new AsyncLocalStorage<Scope>()
/** The last call of a transaction, or of the call of `once` that it is made in. */
const last = new WeakMap<Transaction | Scope, Promise<unknown>>()

/** Savepoints are a stack: of two that overlap, the one that fails would undo what the other did. One within another does not wait for it. */
function inTurn<T>(tx: Transaction, fn: () => Promise<T>): Promise<T> {
  const current = scopes.getStore()
  let around = current
  while (around && around.tx !== tx) around = around.outer
  const run = (): Promise<T> => scopes.run({ tx, outer: current }, fn)
  const before = last.get(around ?? tx)
  const turn = before ? before.then(run, run) : run()
  last.set(around ?? tx, turn)
  return turn
}

function checkText(value: string, name: string): void {
  isString(value, name)
  if (!isStorable(value)) throw new RangeError(`${name} must be without NUL and lone surrogates, got ${shown(value)}`)
}

/** An inbox: which handler has handled which message. Opens nothing and holds nothing. */
export function createInbox<M extends InboxMessage = InboxMessage>(options: InboxOptions<M> = {}): Inbox<M> {
  checkOptions('createInbox', options, inboxChecks)
  const { schema = 'public', table = 'inbox', retentionMs = 30 * 86_400_000, clockSkewMs = 3_600_000, allowOld = false, messageId } = options
  const store = options.store ?? postgresInbox({ schema, table })

  function identify(message: M): string {
    if (messageId) return messageId(message)
    if (message.idStable === false) throw new InboxUnstableIdError(message.id)
    return message.id
  }

  /** Before anything is sent: what is wrong here would be a NULL in the table, or found only when the record is written. */
  function checkCall(message: M | string, handlers: readonly string[], fn: unknown): void {
    if (typeof message !== 'string' && (typeof message !== 'object' || message === null))
      throw new TypeError(`The message must be an object with id, or its id, got ${shown(message)}`)
    for (const handler of handlers) checkText(handler, 'handler')
    isFunction(fn, 'fn')
  }

  /** When it throws, the transaction, or the savepoint around it, has to be rolled back. */
  async function attempt<T>(
    tx: Transaction,
    message: M | string,
    handlers: readonly string[],
    fn: (tx: Transaction, handlers: readonly string[]) => Promise<T>,
  ): Promise<Once<T>> {
    const [id, timestamp] =
      typeof message === 'string' ? [message, undefined] : [identify(message), message.timestamp && Math.max(message.timestamp, firstTime)]
    checkText(id, "The message's id")
    if (id === '') throw new RangeError("The message's id must not be empty: all without one would be the same message")
    const { recorded, old } = await store.record(tx, id, handlers, timestamp, retentionMs)
    if (recorded.length === 0) return { duplicate: true }
    if (old && !allowOld) throw new InboxTooOldError(id, recorded.join(', '), retentionMs)
    return { duplicate: false, value: await fn(tx, recorded) }
  }

  async function once<T>(tx: Transaction, message: M | string, handler: string, fn: (tx: Transaction) => Promise<T>): Promise<Once<T>> {
    assertTransaction(tx)
    assertAlone(tx, 'once')
    checkCall(message, [handler], fn)
    return inTurn(tx, () => store.nested(tx, () => attempt(tx, message, [handler], fn)))
  }

  /** A transaction of its own needs no savepoint. */
  const alone = async <T>(
    transaction: RunTransaction,
    message: M,
    handlers: readonly string[],
    fn: (tx: Transaction, handlers: readonly string[]) => Promise<T>,
    commitChecked = false,
  ): Promise<Once<T>> => {
    checkCall(message, handlers, fn)
    let ended: Once<T> | undefined
    await transaction(async (tx) => {
      ended = undefined
      assertTransaction(tx)
      const once = await attempt(tx, message, handlers, fn)
      if (!commitChecked) await store.alive(tx)
      ended = once
    })
    if (!ended)
      throw new TypeError('The transaction was over before the function given to it had ended: transaction(fn) must call fn, and give its promise back')
    return ended
  }

  return {
    once,
    runner: (transaction, options = {}) => {
      isFunction(transaction, 'runner: transaction')
      checkOptions('runner', options, runnerChecks)
      const { commitChecked = checksCommit(transaction) } = options
      return {
        run: (message, handler, fn) => alone(transaction, message, [handler], fn, commitChecked),
        runTogether: (message, handlers, fn) => {
          isFunction(fn, 'fn')
          const shared = async (tx: Transaction, names: readonly string[]): ReturnType<typeof fn> => {
            const { view, refusal } = sideBySide(tx)
            const value = await fn(view, names)
            const refused = refusal()
            if (refused) throw refused
            return value
          }
          return alone(transaction, message, handlers, shared, commitChecked)
        },
      }
    },
    middleware: (transaction, options) => {
      isFunction(transaction, 'middleware: transaction')
      checkOptions('middleware', options, handlerChecks, ['handler'])
      return (next) => async (message, ctx) => {
        let unhandled = false
        const fn = async (tx: Transaction): Promise<void> => {
          await next(message, Object.assign(ctx, { tx }))
          const { asked } = ctx as { asked?: unknown }
          unhandled = asked === 'retry' || asked === 'deadLetter'
          if (unhandled) throw new Error(`The handler asked for ${String(asked)}: what it did is undone`)
        }
        const run = alone(transaction, message, [options.handler], fn, checksCommit(transaction))
        await run.catch((error: unknown) => {
          if (!unhandled) throw error
        })
      }
    },
    schema: store.schema,
    async cleanup(db, options = {}) {
      isClient(db, 'cleanup: db')
      checkOptions('cleanup', options, signalChecks)
      const { signal } = options
      let swept = 0
      for (;;) {
        signal?.throwIfAborted()
        const n = await store.sweep(db, retentionMs + clockSkewMs, sweepRows)
        swept += n
        if (n < sweepRows) return swept
      }
    },
  }
}
