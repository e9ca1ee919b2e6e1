export { cuttable, type Cuttable, duplicate, failPublish, type FailPublishOptions, type FaultOptions, reorder, seededRandom } from './faults.ts'
export { type ExpectedMessage, type SpiedMessage, spyPublisher, type SpyPublisher } from './spy.ts'
export { virtualClock, type VirtualClock } from './virtual-clock.ts'
