/** Why a use case did not do what was asked. Match on `code`. */
export type RefusalCode =
  /** This tenant has no such activity. */
  | 'ERR_ACTIVELOG_NOT_FOUND'
  /** The first request under this key is still being worked on. */
  | 'ERR_ACTIVELOG_KEY_BUSY'
  /** The key was used for a request with another body. */
  | 'ERR_ACTIVELOG_KEY_REUSED'

export class RefusalError extends Error {
  override readonly name = 'RefusalError'
  readonly code: RefusalCode
  readonly retryable: boolean
  constructor(code: RefusalCode, message: string) {
    super(message)
    this.code = code
    this.retryable = code === 'ERR_ACTIVELOG_KEY_BUSY'
  }
}

export const activityNotFound = (id: string): RefusalError => new RefusalError('ERR_ACTIVELOG_NOT_FOUND', `There is no activity ${id}`)
