import { watched } from '#internal/callbacks'

/** Whose run is spoken of. */
export interface HandlerRun {
  /** The event's name and id. */
  readonly event: string
  readonly id: string
  readonly handler: string
  /** From 1. */
  readonly attempt: number
}

/** Told as it happens, for logs and metrics. What a hook throws is a process warning and changes nothing. */
export interface ProcessorHooks {
  onProcessed?(run: HandlerRun & { durationMs: number; duplicate: boolean }): void
  /** Before the wait. */
  onRetry?(run: HandlerRun & { error: unknown; delayMs: number }): void
  /** For good. */
  onFailed?(run: HandlerRun & { error: unknown }): void
  /** A shared transaction failed for this reason, so each of the event's handlers runs in its own. */
  onSeparated?(event: { event: string; id: string; error: unknown }): void
  /** An event without a handler. */
  onSkipped?(event: { event: string; id: string; known: boolean }): void
  onDeadLetter?(letter: { event: string; id: string; error: Error }): void
}

/** The name of our process warnings. */
export const warning = 'EventsWarning'

/** The hooks, none of which throws. */
export function guarded(hooks: ProcessorHooks): ProcessorHooks {
  const guard = <T>(name: keyof ProcessorHooks, hook: ((about: T) => void) | undefined): ((about: T) => void) | undefined =>
    hook && ((about) => watched(`Hook ${name}`, warning, () => hook.call(hooks, about)))
  const safe = {
    onProcessed: guard('onProcessed', hooks.onProcessed),
    onRetry: guard('onRetry', hooks.onRetry),
    onFailed: guard('onFailed', hooks.onFailed),
    onSeparated: guard('onSeparated', hooks.onSeparated),
    onSkipped: guard('onSkipped', hooks.onSkipped),
    onDeadLetter: guard('onDeadLetter', hooks.onDeadLetter),
  }
  return safe as ProcessorHooks
}
