import type { Delivery, Progress } from './driver.ts'
import type { Job } from './job.ts'
import type { Source } from './source.ts'

/** Jobs that must run one after another: a list through their `next`, since most lanes hold one job and there is a lane for each key. */
export class Lane {
  readonly key: string | undefined
  /** Where it stands under its key. */
  home: Map<string, Lane> | undefined
  /** One of its jobs runs, or waits for another try. */
  busy = false
  /** The latter. */
  waits = false
  #first: Job | undefined
  #last: Job | undefined

  constructor(key?: string, home?: Map<string, Lane>) {
    this.key = key
    this.home = home
  }

  get empty(): boolean {
    return this.#first === undefined
  }

  *[Symbol.iterator](): Generator<Job> {
    for (let job = this.#first; job; job = job.next) yield job
  }

  push(job: Job): void {
    if (this.#last) this.#last.next = job
    else this.#first = job
    this.#last = job
  }

  unshift(job: Job): void {
    job.next = this.#first
    this.#first = job
    this.#last ??= job
  }

  shift(): Job | undefined {
    const job = this.#first
    if (!job) return undefined
    this.#first = job.next
    job.next = undefined
    if (!this.#first) this.#last = undefined
    return job
  }
}

/**
 * A partition in this member's hands, for one epoch: what was handed over and how far it is done. The watermark never passes an unfinished job; what is
 * finished beyond it is told along with it, so that a crash repeats only what was in flight.
 */
export class Owned {
  readonly source: Source
  readonly partition: number
  readonly epoch: number
  /** From the first unfinished one on, in the order of the partition. */
  #jobs: Job[] = []
  #head = 0
  #watermark: Delivery | undefined
  #settled: Delivery[] = []
  readonly lanes: Map<string, Lane> = new Map()
  /** Of messages without a key whose handlers outlived the epoch before, by position. */
  readonly outlived: Map<string, Lane> = new Map()
  readonly partitionLane: Lane
  /** Jobs that hold a slot. */
  running = 0
  dirty = false
  /** While true: one at a time, each start recorded. Until a fetch brings something that nobody had before. */
  suspect = true
  revoking = false
  /** Aborts the waits of its jobs when it is gone. */
  readonly gone: AbortController = new AbortController()

  /** `before`: of earlier epochs, whose handlers still run. Their lanes stay taken until they end, so that nothing runs beside itself. */
  constructor(source: Source, partition: number, epoch: number, before: readonly Owned[] = []) {
    this.source = source
    this.partition = partition
    this.epoch = epoch
    let partitionLane: Lane | undefined
    for (const one of before)
      for (const { running, lane, delivery } of one.unfinished()) {
        if (!running || !lane) continue
        if (lane === one.partitionLane) partitionLane = lane
        else if (lane.key === undefined) this.outlived.set(delivery.position, lane)
        else {
          this.lanes.set(lane.key, lane)
          lane.home = this.lanes
        }
      }
    this.partitionLane = partitionLane ?? new Lane()
  }

  /** Handed over and beyond the watermark. */
  get size(): number {
    return this.#jobs.length - this.#head
  }

  get unflushed(): number {
    return this.#settled.length
  }

  add(job: Job): void {
    this.#jobs.push(job)
    if (!job.delivery.suspect) this.suspect = false
  }

  finish(job: Job): void {
    job.finished = true
    this.dirty = true
    // A broadcast settles nothing.
    if (job.group !== undefined) this.#settled.push(job.delivery)
    while (this.#head < this.#jobs.length && this.#jobs[this.#head]!.finished) this.#watermark = this.#jobs[this.#head++]!.delivery
    if (this.#head === this.#jobs.length) {
      this.#jobs = []
      this.#head = 0
    } else if (this.#head >= 512) {
      this.#jobs = this.#jobs.slice(this.#head)
      this.#head = 0
    }
  }

  /** Jobs that are not finished, in order. */
  *unfinished(): Generator<Job> {
    for (let i = this.#head; i < this.#jobs.length; i++) if (!this.#jobs[i]!.finished) yield this.#jobs[i]!
  }

  /** What to settle now. If that fails, `restore` puts it back. */
  take(): Progress {
    const above: Delivery[] = []
    for (let i = this.#head; i < this.#jobs.length; i++) if (this.#jobs[i]!.finished) above.push(this.#jobs[i]!.delivery)
    const settled = this.#settled
    this.#settled = []
    this.dirty = false
    return { partition: this.partition, epoch: this.epoch, watermark: this.#watermark, above, settled }
  }

  restore({ settled }: Progress): void {
    this.#settled = [...settled, ...this.#settled]
    this.dirty = true
  }
}
