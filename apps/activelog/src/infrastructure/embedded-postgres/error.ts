/** What went wrong, as a word to match on. */
export type EmbeddedPostgresCode =
  /** The data folder cannot be made, written or reached by the server's user. */
  | 'ERR_EMBEDDED_POSTGRES_FOLDER'
  /** Another live process owns the data folder. */
  | 'ERR_EMBEDDED_POSTGRES_HELD'
  /** npm brought no PostgreSQL for this platform. */
  | 'ERR_EMBEDDED_POSTGRES_BINARY'
  /** The port asked for is in use. */
  | 'ERR_EMBEDDED_POSTGRES_PORT'
  /** The server did not start; the message ends with its own words. */
  | 'ERR_EMBEDDED_POSTGRES_START'

/** The embedded server cannot run. The message is one line, fit for a terminal. */
export class EmbeddedPostgresError extends Error {
  override readonly name = 'EmbeddedPostgresError'
  readonly code: EmbeddedPostgresCode
  readonly retryable = false
  constructor(code: EmbeddedPostgresCode, message: string, cause?: unknown) {
    super(message, { cause })
    this.code = code
  }
}
