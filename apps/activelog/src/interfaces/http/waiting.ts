/**
 * How long the oldest message waits, in ms, from its timestamp at each look. One that was replayed or tried again later has the timestamp of its first day: it
 * waits no longer than since the last look that found nothing so old.
 */
export function waitingTime(now: () => number = () => Date.now()): (oldestAt: number | undefined) => number {
  let oldest = -Infinity
  let lookedAt = -Infinity
  let since = -Infinity
  return (oldestAt = Infinity) => {
    if (oldestAt < oldest) since = lookedAt
    oldest = oldestAt
    lookedAt = now()
    return Math.max(0, lookedAt - Math.max(oldestAt, since))
  }
}
