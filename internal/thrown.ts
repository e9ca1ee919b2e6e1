/** Whatever was thrown, be it without a string form: an error with its name, anything else as JSON, or at least its type. */
export function thrownText(thrown: unknown): string {
  try {
    if (typeof thrown === 'string') return thrown
    if (typeof thrown === 'symbol') return String(thrown)
    // Not its toString(), which is anybody's.
    if (thrown instanceof Error && typeof thrown.message === 'string') return [thrown.name, thrown.message].filter(Boolean).join(': ')
    return JSON.stringify(thrown) ?? typeof thrown
  } catch {
    return typeof thrown
  }
}

/** The same for the end of a sentence: of an error its message alone. */
export function errorText(error: unknown): string {
  try {
    if (error instanceof Error && typeof error.message === 'string') return error.message
  } catch {
    // It passes for an error until it is asked.
  }
  return typeof error === 'string' ? error : `${thrownText(error)} was thrown`
}
