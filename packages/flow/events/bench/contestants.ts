import { createEventProcessor, defineEvent } from '@core-backend/events'
import { receivedMessage } from '@core-backend/events/testing'
import { z } from 'zod'
import { peer } from './peers.ts'

/** Three handlers, each of which counts what it saw. */
export interface Work {
  seen: number
  readonly handlers: readonly ((event: { data: { minutes: number } }) => void | Promise<void>)[]
}

export interface Contestant {
  name: string
  /** What it does beside calling the handlers. */
  does: string
  /** One event to the three handlers; a promise where the peer gives one. */
  prepare(work: Work): Promise<() => unknown>
}

const schema = z.object({ id: z.string(), userId: z.number(), minutes: z.number().positive() })
const Created = defineEvent('activity.created', { version: 1, schema, topic: 'activities', aggregateId: ({ id }) => id })
const event = Created({ id: 'a1', userId: 7, minutes: 30 })
const message = receivedMessage(event)

const processorOf = (work: Work): ReturnType<typeof createEventProcessor> => {
  const processor = createEventProcessor()
  for (const [i, handler] of work.handlers.entries()) processor.on(Created, handler, { name: `h${i}` })
  return processor
}

const eventemitter3: Contestant = {
  name: 'eventemitter3',
  does: 'calls functions; waits for nothing, a throw ends the rest',
  async prepare({ handlers }) {
    type Emitter = { on(name: string, handler: unknown): void; emit(name: string, event: unknown): boolean }
    const { default: EventEmitter } = await peer<{ default: new () => Emitter }>('eventemitter3')
    const emitter = new EventEmitter()
    for (const handler of handlers) emitter.on(event.name, handler)
    return () => emitter.emit(event.name, event)
  },
}

const emittery: Contestant = {
  name: 'emittery',
  does: 'waits for all; one error rejects, nothing is retried or counted',
  async prepare({ handlers }) {
    type Emitter = {
      on(name: string, handler: (emitted: { data: { data: { minutes: number } } }) => unknown): void
      emit(name: string, event: unknown): Promise<void>
    }
    const { default: Emittery } = await peer<{ default: new () => Emitter }>('emittery')
    const emitter = new Emittery()
    for (const handler of handlers) emitter.on(event.name, (emitted) => handler(emitted.data))
    return () => emitter.emit(event.name, event)
  },
}

const nest: Contestant = {
  name: '@nestjs/cqrs',
  does: 'an rxjs subject; waits for nothing, errors go to a stream of their own',
  async prepare({ handlers }) {
    await peer('reflect-metadata')
    type Bus = { publish(event: unknown): unknown }
    type Module = (options: object) => (target: unknown) => void
    type Context = { init(): Promise<Context>; get(token: unknown): Bus }
    const { Module, Injectable } = await peer<{ Module: Module; Injectable: () => (target: unknown) => void }>('@nestjs/common')
    const { NestFactory } = await peer<{ NestFactory: { createApplicationContext(module: unknown, options: object): Promise<Context> } }>('@nestjs/core')
    const cqrs = await peer<{ CqrsModule: unknown; EventBus: unknown; EventsHandler(event: unknown): (target: unknown) => void }>('@nestjs/cqrs')
    class ActivityCreated {
      readonly data = event.data
    }
    const providers = handlers.map((handler) => {
      class Handler {
        handle(emitted: ActivityCreated): unknown {
          return handler(emitted)
        }
      }
      Injectable()(Handler)
      cqrs.EventsHandler(ActivityCreated)(Handler)
      return Handler
    })
    const App = function App(): void {}
    Module({ imports: [cqrs.CqrsModule], providers })(App)
    const app = await (await NestFactory.createApplicationContext(App, { logger: false })).init()
    const bus = app.get(cqrs.EventBus)
    const emitted = new ActivityCreated()
    return () => bus.publish(emitted)
  },
}

const ours: Contestant = {
  name: '@core-backend/events',
  does: 'waits for all, each isolated, with retry, context, metrics',
  async prepare(work) {
    const processor = processorOf(work)
    return () => processor.processEvent(event)
  },
}

/** Events as objects, validated before. */
export const dispatching: readonly Contestant[] = [eventemitter3, emittery, nest, ours]

/** Events as a broker brings them: bytes to be parsed and validated first. */
export const receiving: readonly Contestant[] = [
  {
    name: 'by hand: JSON.parse, zod, eventemitter3',
    does: 'as above; no envelope, version, or freezing',
    async prepare(work) {
      type Emitter = { on(name: string, handler: unknown): void; emit(name: string, event: unknown): boolean }
      const { default: EventEmitter } = await peer<{ default: new () => Emitter }>('eventemitter3')
      const emitter = new EventEmitter()
      for (const handler of work.handlers) emitter.on(event.name, handler)
      return () => emitter.emit(message.headers['ce_type']!, { data: schema.parse(JSON.parse(Buffer.from(message.value).toString())) })
    },
  },
  {
    name: 'by hand: JSON.parse, zod, emittery',
    does: 'as above',
    async prepare(work) {
      const emit = await emittery.prepare(work)
      return () => (schema.parse(JSON.parse(Buffer.from(message.value).toString())), emit())
    },
  },
  {
    name: '@core-backend/events',
    does: 'processMessage: CloudEvents envelope, version, validation, freezing, handlers',
    async prepare(work) {
      const processor = processorOf(work)
      return () => processor.processMessage(message)
    },
  },
]
