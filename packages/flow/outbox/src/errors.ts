/** The tables of an outbox or an inbox are missing, or of another version than this one needs. Run what its `schema()` gives. */
export class OutboxSchemaError extends Error {
  override readonly name = 'OutboxSchemaError'
  readonly code = 'ERR_OUTBOX_SCHEMA'
  readonly retryable = false
  constructor(what: 'outbox' | 'inbox', table: string, cause: unknown) {
    super(`The tables of ${what} ${table} are missing or of another version: run await db.query(${what}.schema()), in a migration or at start`, { cause })
  }
}

/** The broker gave no answer in time: the rows stay and are sent again under the same ids. */
export class PublishTimeoutError extends Error {
  override readonly name = 'PublishTimeoutError'
  readonly code = 'ERR_OUTBOX_PUBLISH_TIMEOUT'
  readonly retryable = true
  constructor(timeoutMs: number) {
    super(`The publisher gave no answer within ${timeoutMs} ms`)
  }
}

/** The database gave no answer in time. What it may still do is harmless: deletes name confirmed rows only, moves are fenced. */
export class StatementTimeoutError extends Error {
  override readonly name = 'StatementTimeoutError'
  readonly code = 'ERR_OUTBOX_STATEMENT_TIMEOUT'
  readonly retryable = true
  constructor(timeoutMs: number) {
    super(`The database gave no answer within ${timeoutMs} ms`)
  }
}

/** Older than the inbox remembers, and without a record: it may have been handled before, so it is not run. */
export class InboxTooOldError extends Error {
  override readonly name = 'InboxTooOldError'
  readonly code = 'ERR_INBOX_TOO_OLD'
  readonly retryable = false
  constructor(messageId: string, handler: string, retentionMs: number) {
    super(`Message ${messageId} for ${handler} is older than the inbox remembers (${retentionMs} ms), so nobody can know whether it was handled`)
  }
}

/** The message's id changes from delivery to delivery, so it cannot tell a duplicate. Give the inbox a `messageId` function. */
export class InboxUnstableIdError extends Error {
  override readonly name = 'InboxUnstableIdError'
  readonly code = 'ERR_INBOX_UNSTABLE_ID'
  readonly retryable = false
  constructor(messageId: string) {
    super(`Message ${messageId} has no stable id; say by messageId what identifies it`)
  }
}
