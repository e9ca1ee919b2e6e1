import { createHash } from 'node:crypto'
import type { LogEntry, Mark, TopicLog } from './driver.ts'
import { header, trailOf, userHeaders } from './wire.ts'

/** A message that a group gave up, as it was, and why. */
export interface DeadLetter {
  /** The same for every copy that a crash may have left: a hash of origin, group and replay count. */
  readonly letterId: string
  /** Where it stands in the log of dead letters; what `list({ after })` takes. */
  readonly position: string
  readonly id: string
  readonly key: string | undefined
  readonly value: Uint8Array
  readonly headers: Readonly<Record<string, string>>
  readonly timestamp: number
  readonly tombstone: boolean
  /** What a message from elsewhere has beyond our grammar. */
  readonly rawKey: Uint8Array | undefined
  readonly rawHeaders: ReadonlyArray<readonly [name: string, value: Uint8Array]> | undefined
  readonly group: string
  readonly origin: { readonly topic: string; readonly partition: number; readonly position: string }
  /** `stack` is cut to 8 KiB with code and message. */
  readonly error: { readonly code: string; readonly message: string; readonly stack: string }
  /** Failed runs. */
  readonly attempts: number
  /** ms since the epoch. */
  readonly firstFailureAt: number
  readonly lastFailureAt: number
  readonly replays: number
}

/** The same for every copy of one failure of one message. */
export function letterId({ topic, partition, position }: { topic: string; partition: number; position: string }, group: string, replays: number): string {
  return createHash('sha256')
    .update(JSON.stringify([topic, partition, position, group, replays]))
    .digest('base64url')
    .slice(0, 22)
}

/** What stands in a group's log of dead letters on a topic. */
export function asLetter({ position, message }: LogEntry, topic: string, group: string): DeadLetter {
  const { headers } = message
  const trail = trailOf(headers)
  const text = (name: string): string => headers[name] ?? ''
  return {
    letterId: headers[header.letterId] ?? letterId({ topic, partition: 0, position }, group, 0),
    position,
    id: message.id,
    key: message.key,
    value: message.value,
    headers: userHeaders(headers),
    timestamp: message.timestamp,
    tombstone: message.tombstone,
    rawKey: message.rawKey,
    rawHeaders: message.rawHeaders,
    group,
    origin: trail.origin ?? { topic, partition: 0, position },
    error: { code: text(header.errorCode), message: text(header.errorMessage), stack: text(header.errorStack) },
    attempts: trail.failures,
    firstFailureAt: trail.firstFailureAt ?? message.timestamp,
    lastFailureAt: Number(headers[header.lastFailureAt] ?? message.timestamp),
    replays: trail.replays,
  }
}

/** The mark that speaks of this copy, which is one up to its position: after a reset the same message may fail again, and that is a new letter. */
export function markOf({ letterId: id, position }: Pick<DeadLetter, 'letterId' | 'position'>, marks: Awaited<ReturnType<TopicLog['marks']>>): Mark | undefined {
  const set = marks.get(id)
  return set && !isLater(position, set.position) ? set.mark : undefined
}

/** Of two positions of one log. */
function isLater(position: string, than: string): boolean {
  const [a, b] = [position.split('-'), than.split('-')]
  const differs = a.findIndex((part, i) => part !== b[i])
  return differs >= 0 && BigInt(a[differs]!) > BigInt(b[differs] ?? '0')
}
