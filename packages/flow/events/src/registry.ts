import { listOf } from '#internal/options'
import { decode, readEnvelope } from './envelope.ts'
import { EventError } from './errors.ts'
import type { AnyEventDefinition, EventOf } from './event.ts'
import type { ReceivedMessage } from './message.ts'
import { isDefinition } from './options.ts'

/** Every event that a service knows, from which its documents and checks are made. */
export interface EventRegistry<D extends AnyEventDefinition = AnyEventDefinition> extends Iterable<D> {
  get(name: string): D | undefined
  /** In the order of definition. */
  readonly names: readonly string[]
  /** Each topic once. */
  readonly topics: readonly string[]
  /**
   * A message's event in its latest version, for readers that need no processor. Rejects with {@link EventError}:
   * `ERR_EVENTS_UNKNOWN`, `ERR_EVENTS_VERSION`, `ERR_EVENTS_INVALID`, `ERR_EVENTS_ENVELOPE`.
   */
  decode(message: ReceivedMessage): Promise<EventOf<D>>
}

/** Throws `TypeError` when two definitions have one name. */
export function createEventRegistry<const D extends AnyEventDefinition>(definitions: readonly D[]): EventRegistry<D> {
  listOf(isDefinition)(definitions, 'createEventRegistry: definitions')
  const byName = new Map<string, D>()
  for (const definition of definitions) {
    if (byName.has(definition.name)) throw new TypeError(`${definition.name} is defined twice`)
    byName.set(definition.name, definition)
  }
  return {
    get: (name) => byName.get(name),
    names: [...byName.keys()],
    topics: [...new Set(definitions.map(({ topic }) => topic))],
    async decode(message) {
      const envelope = readEnvelope(message)
      const definition = byName.get(envelope.type)
      if (!definition) throw unknownEvent(envelope.type, message.id)
      return (await decode(definition, message, envelope)) as EventOf<D>
    },
    [Symbol.iterator]: () => byName.values(),
  }
}

export function unknownEvent(type: string, id: string): EventError {
  return new EventError('ERR_EVENTS_UNKNOWN', type === '' ? `Message ${id} does not say which event it is` : `Unknown event ${type} (message ${id})`)
}
