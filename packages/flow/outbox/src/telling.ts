import { unheard, watched } from '#internal/callbacks'
import type { Clock } from '#internal/clock'
import type { Alarm, RelayHooks } from './relay-types.ts'

export interface Telling {
  /** Calls a hook, which must not stop the work. Errors that no hook hears are a process warning. */
  tell<K extends keyof RelayHooks>(hook: K, ...args: Parameters<NonNullable<RelayHooks[K]>>): void
  /** Once a minute for each kind. */
  alarm(alarm: Alarm): void
  /** What failed last. */
  trouble(): unknown
}

const alarmEveryMs = 60_000

/** Tells whoever watches a relay. */
export function createTelling(hooks: RelayHooks, clock: Clock): Telling {
  const alarmedAt = new Map<Alarm['kind'], number>()
  let trouble: unknown

  const tell: Telling['tell'] = (hook, ...args) => {
    if (hook === 'onError') trouble = args[0]
    if (hook === 'onError' && !hooks.onError)
      unheard('onError', 'OutboxWarning', `The relay cannot ${args[1] === 'publish' ? 'publish' : 'use the database'}`, args[0])
    watched(`Hook ${hook}`, 'OutboxWarning', () => (hooks[hook] as ((...a: unknown[]) => unknown) | undefined)?.(...args))
  }

  return {
    tell,
    alarm(alarm) {
      const now = clock.monotonic()
      if (now - (alarmedAt.get(alarm.kind) ?? -Infinity) < alarmEveryMs) return
      alarmedAt.set(alarm.kind, now)
      tell('onAlarm', alarm)
    },
    trouble: () => trouble,
  }
}
