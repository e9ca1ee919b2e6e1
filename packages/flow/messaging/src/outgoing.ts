import type { Clock } from '#internal/clock'
import { uuidv7 } from '#internal/uuid'
import type { BrokerDriver, OutgoingMessage } from './driver.ts'
import { MessagingError, unsupported } from './errors.ts'
import { checkMessage, type MessageInput } from './message.ts'
import { checkHeaders, checkTopic } from './names.ts'

export interface OutgoingOptions {
  clock: Clock
  maxMessageBytes: number
  /** Suffixes that only the engine's own topics may have. */
  reserved: readonly string[]
}

/** Makes of what a publisher is given what its driver takes; throws for what cannot be published. */
export function createOutgoing(
  { capabilities, name }: BrokerDriver,
  { clock, maxMessageBytes, reserved }: OutgoingOptions,
): (input: MessageInput) => OutgoingMessage {
  const checkDelay = (delayMs: number, topic: string): void => {
    if (delayMs > 0 && !capabilities.delay) throw unsupported('A delay', name)
    if (capabilities.delay && delayMs > capabilities.delay.maxMs)
      throw new RangeError(`Cannot delay a message to ${topic} by ${delayMs} ms, the most is ${capabilities.delay.maxMs}`)
  }

  return (input) => {
    checkMessage(input)
    checkTopic(input.topic, reserved)
    const { topic, key, value, tombstone = false, dedupeId, delayMs } = input
    if (tombstone && value.length > 0) throw new TypeError(`A tombstone has no body, got ${value.length} bytes for ${topic}`)
    if (dedupeId !== undefined && !capabilities.dedupe) throw unsupported('dedupeId', name)
    const now = clock.now()
    const deliverAt = input.deliverAt ?? (delayMs === undefined ? undefined : now + delayMs)
    if (deliverAt !== undefined) checkDelay(deliverAt - now, topic)
    const message: OutgoingMessage = {
      id: input.id ?? uuidv7(now),
      topic,
      key,
      value,
      headers: checkHeaders(input.headers ?? {}),
      timestamp: input.timestamp ?? now,
      tombstone,
      deliverAt: deliverAt !== undefined && deliverAt > now ? deliverAt : undefined,
      dedupeId,
      rawKey: undefined,
      rawHeaders: undefined,
    }
    const size = messageBytes(message, maxMessageBytes)
    if (size > maxMessageBytes)
      throw new MessagingError(
        'ERR_MESSAGING_TOO_LARGE',
        `A message to ${topic} has ${size} bytes with key and headers, at most ${maxMessageBytes} are allowed`,
        {
          retryable: false,
        },
      )
    return message
  }
}

/** Exact only near the limit: UTF-8 takes at most three bytes a UTF-16 unit. */
function messageBytes(message: Pick<OutgoingMessage, 'key' | 'value' | 'headers'>, limit: number): number {
  let units = message.key?.length ?? 0
  for (const name in message.headers) units += name.length + message.headers[name]!.length
  if (message.value.length + units * 3 <= limit) return message.value.length + units
  let bytes = message.value.length + Buffer.byteLength(message.key ?? '')
  for (const name in message.headers) bytes += name.length + Buffer.byteLength(message.headers[name]!)
  return bytes
}
