/** Calls what only watches. What it throws, and what a promise that it gives where nothing is asked for rejects with, goes to `threw` and no further. */
export function watched(call: () => unknown, threw: (error: unknown) => void): void {
  try {
    const answer = call()
    if (answer instanceof Promise) answer.catch(threw)
  } catch (error) {
    threw(error)
  }
}

/** Whether a predicate says no; one that throws, or is not there, has not. */
export function saysNo(ask: () => boolean | undefined): boolean {
  try {
    return ask() === false
  } catch {
    return false
  }
}
