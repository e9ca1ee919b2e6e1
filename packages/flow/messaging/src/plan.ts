import { checkOptions, isFunction, shown } from '#internal/options'
import type { SubscribeOptions } from './broker.ts'
import type { Capabilities } from './driver.ts'
import { unsupported } from './errors.ts'
import { checkGroup, checkTopic } from './names.ts'
import { subscribeChecks } from './options.ts'

export interface Plan {
  /** Each once. */
  readonly topics: readonly string[]
  /** Whether retries leave their lane, through the group's private source. */
  readonly leaveOrder: boolean
}

/** Throws for what cannot be subscribed to, or not so. */
export function checkPlan(
  given: string | readonly string[],
  options: SubscribeOptions<unknown>,
  handler: unknown,
  { reserved, capabilities, driver }: { reserved: readonly string[]; capabilities: Capabilities; driver: string },
): Plan {
  if (typeof given !== 'string' && !Array.isArray(given)) throw new TypeError(`subscribe: topics must be a string or an array of strings, got ${shown(given)}`)
  checkOptions('subscribe', options, subscribeChecks)
  isFunction(handler, 'subscribe: handler')
  options.signal?.throwIfAborted()
  const topics: readonly string[] = [...new Set(typeof given === 'string' ? [given] : given)]
  if (topics.length === 0) throw new RangeError('subscribe needs at least one topic')
  for (const topic of topics) checkTopic(topic, reserved)
  const { group, order, start, retry: { onRetry } = {} } = options
  if (group === undefined) {
    if (options.deadLetter) throw new TypeError('deadLetter needs a group: a broadcast has no dead letters')
    if (start !== undefined && start !== 'latest') throw new TypeError('start needs a group: a broadcast begins at the latest message')
    if (onRetry === 'leave-order') throw new TypeError("onRetry: 'leave-order' needs a group: a broadcast retries inline")
  } else checkGroup(group)
  const wanted = onRetry ?? (order === 'none' ? 'leave-order' : 'hold')
  const leaveOrder = wanted === 'leave-order' && group !== undefined && capabilities.delay !== undefined
  if (onRetry === 'leave-order' && !leaveOrder) throw unsupported("onRetry: 'leave-order'", driver)
  return { topics, leaveOrder }
}
