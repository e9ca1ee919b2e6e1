import { unheard, warnOf, watched } from '#internal/callbacks'
import type { PublishResult } from './driver.ts'
import type { Message } from './message.ts'

/** How a delivery ended in its group. */
export type Outcome = 'acked' | 'skipped' | 'retried' | 'dead-lettered' | 'dropped'

/** Calls for those who watch. A hook that throws changes nothing for the message. */
export interface Hooks {
  onPublish?(event: { readonly topic: string; readonly id: string; readonly result: PublishResult }): void
  onDelivery?(event: { readonly message: Message<unknown>; readonly group: string | undefined }): void
  onSettled?(event: { readonly message: Message<unknown>; readonly group: string | undefined; readonly outcome: Outcome; readonly durationMs: number }): void
  /** A handler's failure (with its message) or a failure of the broker behind a subscription (without); both are dealt with, this only tells. Without this hook, the first of each topic and group is a warning. */
  onError?(event: { readonly error: unknown; readonly topic: string; readonly group: string | undefined; readonly message?: Message<unknown> }): void
  /** A handler goes on although its signal aborted `abortGraceMs` ago. Its slot stays taken until it ends. Without this hook, the first of each topic and group is a warning. */
  onStuck?(event: { readonly message: Message<unknown>; readonly group: string | undefined; readonly reason: unknown }): void
}

/** Calls one hook; its exception is reported as a process warning and goes no further. */
export function tell<K extends keyof Hooks>(hooks: Hooks, name: K, event: Parameters<NonNullable<Hooks[K]>>[0]): void {
  const hook = hooks[name] as ((e: typeof event) => void) | undefined
  if (!hook && name === 'onError') tellOnce(event as Parameters<NonNullable<Hooks['onError']>>[0])
  if (!hook && name === 'onStuck') tellOfStuck(event as Parameters<NonNullable<Hooks['onStuck']>>[0])
  if (!hook) return
  watched(`Hook ${name}`, warning, () => hook.call(hooks, event))
}

function tellOnce({ error, topic, group, message }: Parameters<NonNullable<Hooks['onError']>>[0]): void {
  if ((error as { code?: unknown } | null | undefined)?.code === 'ERR_MESSAGING_RETRY') return // asked for, and no failure
  const place = placeOf(topic, group)
  unheard('onError', warning, message ? `A handler of ${place} failed` : `The subscription to ${place} has trouble`, error)
}

function tellOfStuck({ message: { topic }, group, reason }: Parameters<NonNullable<Hooks['onStuck']>>[0]): void {
  const place = placeOf(topic, group)
  unheard(
    'onStuck',
    warning,
    `A handler of ${place} goes on though its signal aborted, and keeps one of its places until it ends; give ctx.signal to what it waits for`,
    reason,
  )
}

const placeOf = (topic: string, group: string | undefined): string => (group === undefined ? topic : `${topic} (group ${group})`)

/** The name of our process warnings. */
export const warning = 'MessagingWarning'

/** Calls what a tracer gave; as with hooks, its exception goes no further. */
export function traced<T>(what: string, call: () => T): T | undefined {
  try {
    return call()
  } catch (error) {
    warnOf(`Tracing ${what}`, warning, error)
    return undefined
  }
}

/** What a tracer adds; `./otel` makes one from `@opentelemetry/api`. */
export interface Tracing {
  /**
   * Called before a message that was given to `publish` or `publishBatch` is stored: may add headers (W3C `traceparent`). The function it returns is told how it ended.
   * What throws here changes nothing for the message. Retries, dead letters and replays keep the headers they have.
   */
  publish(message: {
    readonly topic: string
    readonly id: string
    readonly key: string | undefined
    readonly headers: Record<string, string>
  }): (error?: unknown) => void
  /** Runs `next` inside the consumer's span. */
  handle(message: Message<unknown>, context: { readonly group: string | undefined; readonly partition: number }, next: () => unknown): unknown
}
