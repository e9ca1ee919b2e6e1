import { RefusalError } from '../../application/errors.ts'
import { type Fault, InvalidActivityError } from '../../domain/activity.ts'
import { CommitLostError, isBusy, isGivenUp, isLocked, isUnavailable } from '../../infrastructure/database.ts'

/** What is wrong with a request, as HTTP says it. */
export class HttpError extends Error {
  override readonly name = 'HttpError'
  readonly code = 'ERR_ACTIVELOG_HTTP'
  readonly retryable: boolean
  readonly status: number
  readonly faults: readonly Fault[]
  constructor(status: number, message: string, faults: readonly Fault[] = []) {
    super(message)
    this.status = status
    this.faults = faults
    this.retryable = status >= 500
  }
}

/** One field, header or parameter is wrong. */
export const badField = (field: string, detail: string): HttpError => new HttpError(400, 'The request is invalid', [{ field, detail }])

const titles: Record<number, string> = {
  400: 'Bad Request',
  404: 'Not Found',
  405: 'Method Not Allowed',
  408: 'Request Timeout',
  409: 'Conflict',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  422: 'Unprocessable Content',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
}
const refusals: Record<RefusalError['code'], number> = { ERR_ACTIVELOG_NOT_FOUND: 404, ERR_ACTIVELOG_KEY_BUSY: 409, ERR_ACTIVELOG_KEY_REUSED: 422 }

const isCommitLost = (error: unknown): boolean => error instanceof CommitLostError

/** The status of whatever was thrown. */
function statusOf(error: unknown): number {
  if (error instanceof HttpError) return error.status
  if (error instanceof InvalidActivityError) return 400
  if (error instanceof RefusalError) return refusals[error.code]
  return [isUnavailable, isBusy, isLocked, isGivenUp, isCommitLost].some((is) => is(error)) ? 503 : 500
}

/** What the server did wrong is in its log, not here. */
function detailOf(error: unknown, status: number): string {
  if (status === 500) return 'Something went wrong here'
  if (error instanceof HttpError) return error.message
  if (isLocked(error)) return 'Somebody holds a lock on what this needs; try again'
  if (isBusy(error)) return 'All connections are in use; try again'
  if (isGivenUp(error)) return 'The database gave this up, and nothing of it is done; try again'
  if (isCommitLost(error)) return 'The connection to the database was lost at the end: this may be done; repeat a POST only under an Idempotency-Key'
  if (status === 503) return 'The database cannot be reached; try again'
  return error instanceof InvalidActivityError ? 'The activity is invalid' : (error as Error).message
}

/** The answer to everything until the service is there. */
export function starting(): Response {
  const body = { type: 'about:blank', title: titles[503], status: 503, detail: 'Starting' }
  return new Response(JSON.stringify(body), { status: 503, headers: { 'content-type': 'application/problem+json', 'retry-after': '1' } })
}

/** Whatever was thrown as problem details (RFC 9457). */
export function problem(error: unknown, requestId: string): Response {
  const status = statusOf(error)
  const faults = error instanceof HttpError || error instanceof InvalidActivityError ? error.faults : []
  const errors = faults.map(({ field, detail }) => ({ ...(field !== '' && { field }), detail }))
  const body = { type: 'about:blank', title: titles[status], status, detail: detailOf(error, status), requestId, ...(errors.length > 0 && { errors }) }
  const headers: Record<string, string> = { 'content-type': 'application/problem+json', 'x-request-id': requestId }
  // A client that takes this as a word to try again would do twice what may be done.
  if ((status === 503 && !isCommitLost(error)) || status === 409) headers['retry-after'] = '1'
  if (status === 413) headers['connection'] = 'close'
  return new Response(JSON.stringify(body), { status, headers })
}
