import { Fifo } from '#internal/fifo'
import type { Job } from './job.ts'
import { Lane } from './owned.ts'

export interface ScheduleOptions {
  readonly order: 'key' | 'partition' | 'none'
  readonly concurrency: number
  /** Whether new jobs may start. */
  readonly open: () => boolean
  /** Takes a job that just got a slot. */
  readonly start: (job: Job) => void
}

/** Runs the jobs of a lane one after another, and lanes side by side in `concurrency` slots. */
export interface Schedule {
  /** Puts a job at the end of its lane. */
  add(job: Job, key: string | undefined): void
  /** Puts a job that waited for another run at the front of its lane. */
  back(job: Job): void
  /** Takes a job's slot back. `again`: it will come `back`, and its lane waits for it. */
  free(job: Job, again: boolean): void
  /** Starts what may start. */
  run(): void
  setConcurrency(n: number): void
  readonly running: ReadonlySet<Job>
}

export function createSchedule({ order, concurrency: limit, open, start }: ScheduleOptions): Schedule {
  const ready = new Fifo<Lane>()
  const running = new Set<Job>()
  let concurrency = limit
  let starting = false

  const laneOf = ({ owned, delivery }: Job, key: string | undefined): Lane => {
    if (order === 'partition') return owned.partitionLane
    if (order === 'none' || key === undefined) return owned.outlived.get(delivery.position) ?? new Lane()
    let lane = owned.lanes.get(key)
    if (!lane) owned.lanes.set(key, (lane = new Lane(key, owned.lanes)))
    return lane
  }

  const run = (): void => {
    // A handler that returns no promise ends within `start` and comes back here: one loop, no recursion.
    if (starting) return
    starting = true
    try {
      startAll()
    } finally {
      starting = false
    }
  }

  const startAll = (): void => {
    while (running.size < concurrency && open()) {
      const lane = ready.shift()
      if (!lane) break
      const job = lane.shift()
      if (!job || job.dropped) {
        if (!lane.empty) ready.push(lane)
        continue
      }
      lane.busy = true
      job.running = true
      running.add(job)
      job.owned.running++
      start(job)
    }
  }

  return {
    add: (job, key) => {
      const lane = (job.lane = laneOf(job, key))
      if (!lane.busy && lane.empty) ready.push(lane)
      lane.push(job)
      if (lane.waits) job.owned.source.count(job, true)
    },
    back: (job) => {
      const lane = job.lane!
      lane.waits = false
      for (const other of lane) job.owned.source.count(other, false)
      lane.unshift(job)
      ready.push(lane)
    },
    free: (job, again) => {
      job.running = false
      running.delete(job)
      job.owned.running--
      const lane = job.lane!
      if (again) {
        lane.waits = true
        for (const other of lane) job.owned.source.count(other, true)
        return
      }
      lane.busy = false
      if (!lane.empty) ready.push(lane)
      else if (lane.key !== undefined) lane.home!.delete(lane.key)
    },
    run,
    setConcurrency: (n) => {
      concurrency = n
      run()
    },
    running,
  }
}
