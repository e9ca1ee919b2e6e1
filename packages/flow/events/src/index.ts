export { type Envelope, readEnvelope, toMessage } from './envelope.ts'
export { EventError, type EventErrorCode, EventHandlingError, type EventIssue, EventPublishError, type HandlerFailure } from './errors.ts'
export {
  type AnyEventDefinition,
  type Correlation,
  defineEvent,
  type DefineOptions,
  type DomainEvent,
  type EventDefinition,
  type EventOf,
  type EventOptions,
  type EventVersion,
  type UpcastableDefinition,
} from './event.ts'
export type { EventHandler, EventHandlerFunction, HandlerContext, HandlerOptions, Inbox, InboxMessage, Policy, RawEvent, RetryOptions } from './handler.ts'
export type { HandlerRun, ProcessorHooks } from './hooks.ts'
export type { DeliveryContext, MessagePublisher, MessageSubscriber, OutgoingMessage, PublishResult, ReceivedMessage, SubscribeOptions } from './message.ts'
export type { HandlerMetrics } from './metrics.ts'
export {
  createEventProcessor,
  type EventProcessor,
  type EventSubscriber,
  type ProcessorMetrics,
  type ProcessorOptions,
  type RawEventOptions,
} from './processor.ts'
export { eventPublisher, type EventPublisher, type EventPublishOptions } from './publisher.ts'
export { createEventRegistry, type EventRegistry } from './registry.ts'
export { createWorker, type Worker, type WorkerOptions } from './worker.ts'
