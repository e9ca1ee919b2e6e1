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

/** Of what a server that did not start has said: its own last fatal words, else its last line, and the way out where we know one. `holders` are the pids that still use the cluster. */
export function startFailure(log: string, { cluster, holders }: { cluster: string; holders: readonly number[] }): EmbeddedPostgresError {
  const lines = log.split('\n').filter((line) => line.trim() !== '')
  const fatal = lines.findLast((line) => /(FATAL|PANIC|error|cannot|could not):?/i.test(line)) ?? lines.at(-1) ?? 'it said nothing'
  let wayOut = ''
  if (/shared memory block|lock file/.test(fatal)) {
    wayOut =
      holders.length > 0 ? `: end what is left of an earlier server, pid ${holders.join(' ')}` : `: end the processes of PostgreSQL that still use ${cluster}`
  } else if (/postgresql\.conf|pg_control|not a valid data directory|incompatible with server/.test(fatal)) {
    wayOut = `: set DATA_DIR to another folder, or move ${cluster} away`
  }
  return new EmbeddedPostgresError('ERR_EMBEDDED_POSTGRES_START', `PostgreSQL did not start: ${fatal.replace(/^.*?(FATAL|PANIC):\s*/, '')}${wayOut}`)
}
