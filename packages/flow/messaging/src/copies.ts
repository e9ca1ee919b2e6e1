import type { Clock } from '#internal/clock'
import { uuidv7 } from '#internal/uuid'
import type { PublishResult } from './driver.ts'
import type { Job } from './job.ts'
import { letterId } from './letter.ts'
import { deadLetterTopic, retryTopic } from './names.ts'
import type { Publisher } from './publisher.ts'
import type { Topology } from './topology.ts'
import { copyOf, diagnosis, header, originHeaders } from './wire.ts'

interface Deps {
  publisher: Publisher
  topology: Topology
  clock: Clock
  /** Of dead-letter topics. */
  suffix: string
  /** Whether the broker drops what has a dedupe id that it knows. */
  dedupe: boolean
}

/** Why a message is given up, as the handler said it. */
export interface LetterExtra {
  readonly reason?: string
  readonly headers?: Readonly<Record<string, string>>
}

/** What a group publishes of a message that it could not handle. */
export interface Copies {
  /** To the group's private source, for a later run. */
  retry(job: Job, delayMs: number): Promise<PublishResult>
  /** To its dead letters, with all about why. */
  letter(job: Job, error: unknown, extra: LetterExtra): Promise<PublishResult>
}

const letterSpec = { partitions: 1, keep: true, maxAgeMs: undefined }

/** `topicOf` gives the topic of a source: the group's private one speaks for it. */
export function createCopies({ publisher, topology, clock, suffix, dedupe }: Deps, topicOf: ReadonlyMap<string, string>, group: string): Copies {
  const session = uuidv7()

  /** Where the copy belongs is ours to say; where the message first stood, a copy that failed again says itself. */
  const placeOf = ({ trail, owned, delivery: { partition, position } }: Job) => {
    const topic = topicOf.get(owned.source.topic)!
    return { topic, origin: trail.origin ?? { topic, partition, position } }
  }

  return {
    retry: (job, delayMs) => {
      const { message, partition, position } = job.delivery
      const source = `${job.owned.source.topic}.${job.owned.epoch}.${partition}.${position}`
      const { topic, origin } = placeOf(job)
      const now = clock.now()
      const headers = {
        ...message.headers,
        ...originHeaders(origin),
        [header.failures]: String(job.failures),
        [header.firstFailureAt]: String(job.firstFailureAt ?? now),
      }
      // Where it failed, and in which session: after a replay or a reset of the group the same count of failures comes again, and must not pass for the first one. Nor may that
      // of a group that was deleted and made again, whose epochs begin anew.
      const once = dedupe ? { dedupeId: `${message.id}/retry/${job.failures}/${session}.${source}` } : {}
      return publisher.send(copyOf(message, retryTopic(topic, group), headers, { deliverAt: now + delayMs, ...once }))
    },

    letter: async (job, error, { reason, headers = {} }) => {
      const { message } = job.delivery
      const { topic, origin } = placeOf(job)
      const target = deadLetterTopic(topic, group, suffix)
      try {
        await topology.ensureTopic(target, letterSpec)
      } catch (cause) {
        return { status: 'rejected', error: cause }
      }
      const now = clock.now()
      return publisher.send(
        copyOf(message, target, {
          ...message.headers,
          ...headers,
          ...originHeaders(origin),
          ...diagnosis(error),
          ...(reason === undefined ? {} : { [header.errorMessage]: diagnosis(reason)[header.errorMessage]! }),
          [header.group]: group,
          [header.failures]: String(job.failures),
          [header.firstFailureAt]: String(job.firstFailureAt ?? now),
          [header.lastFailureAt]: String(now),
          [header.replays]: String(job.trail.replays),
          [header.letterId]: letterId(origin, group, job.trail.replays),
        }),
      )
    },
  }
}
