import { type Deferred, deferred, enough } from '#internal/abort'
import type { Clock } from '#internal/clock'
import type { BrokerDriver, Consumption, Delivery, Ownership } from './driver.ts'
import { MessagingError } from './errors.ts'
import { Job } from './job.ts'
import { Owned } from './owned.ts'

export interface SourceOptions {
  readonly topic: string
  readonly group: string | undefined
  readonly clock: Clock
  readonly prefetch: number
  readonly maxInFlight: number
  readonly flushMs: number
  readonly flushEvery: number
  /** Whether to ask for more. */
  readonly open: () => boolean
  /** Takes a job; it is started by `start`. */
  readonly accept: (job: Job) => void
  readonly start: () => void
  readonly abort: (job: Job, reason: MessagingError) => void
  readonly onError: (error: unknown) => void
}

/** One topic that a subscription reads: what it owns of it, what it asks for, and how far it is done. */
export interface Source {
  readonly topic: string
  readonly consumption: Consumption
  readonly owned: ReadonlyMap<number, Owned>
  /** Handed over and not started. */
  buffered: number
  /** Notes whether a buffered job is behind one that waits for another run. Such jobs do not count against the prefetch, or a key that fails would hold up all others. */
  count(job: Job, behind: boolean): void
  /** The last failure of the broker, until something works again. */
  readonly error: unknown
  /** There may be room again. */
  kick(): void
  /** The job needs no other run: progress may pass it. False when it is no longer ours to say. */
  finish(job: Job): boolean
  /** Stores what is finished by now. */
  flush(): Promise<void>
  /** A slot of this partition was given back. */
  freed(owned: Owned): void
  /** Ends a fetch under way; the next one asks anew. */
  interrupt(): void
  /** Gives back what has not started. */
  dropWaiting(): void
  /** Stores what is done and leaves; what is not done goes back to the broker. */
  leave(): Promise<void>
}

const nothing: ReadonlyMap<number, number> = new Map()

export async function openSource(driver: BrokerDriver, options: SourceOptions): Promise<Source> {
  const { topic, group, clock, prefetch, open } = options
  const owned = new Map<number, Owned>()
  /** Lost or given back while handlers of theirs still run. */
  let outlived: readonly Owned[] = []
  const half = Math.ceil(prefetch / 2)
  let consumption: Consumption | undefined
  let behind = 0
  let error: unknown
  /** Why what it holds could not be renewed, until it could. */
  let renewal: unknown
  /** The fetch under way: for which partitions, and its end. */
  let asked: { wants: ReadonlyMap<number, number>; end: AbortController } | undefined
  /** Whether partitions came or went since it was asked. */
  let changed = false
  /** Set while there is nothing to ask for. */
  let idle: Deferred<void> | undefined
  let flushing: Promise<void> | undefined
  let flushTimer = false
  const left = new AbortController()

  const failed = (cause: unknown): void => {
    error = cause
    options.onError(cause)
  }

  // Asking. Half the prefetch at a time: one half is asked for while the other is worked on.

  const wantsOf = (): ReadonlyMap<number, number> => {
    if (prefetch - (source.buffered - behind) < half || !open()) return nothing
    const wants = new Map<number, number>()
    const share = Math.ceil(half / Math.max(1, owned.size))
    for (const [partition, one] of owned) {
      const room = one.revoking ? 0 : one.suspect ? (one.size === 0 ? 1 : 0) : Math.min(share, options.maxInFlight - one.size)
      if (room > 0) wants.set(partition, room)
    }
    return wants
  }

  /** Wakes a source that has nothing to ask for, or ends a fetch that does not ask for a partition which has room. */
  const kick = (): void => {
    if (idle) {
      // Who owns nothing asks too, to hear when there is nothing to be had any more.
      if (wantsOf().size > 0 || owned.size === 0) idle.resolve()
    } else if (asked && (changed || asked.wants.size < owned.size)) {
      for (const partition of wantsOf().keys()) if (!asked.wants.has(partition)) return asked.end.abort(enough)
    }
  }

  const pump = async (from: Consumption): Promise<void> => {
    let pause = 100
    while (!left.signal.aborted) {
      const wants = wantsOf()
      // Who owns nothing asks for nothing, and so hears when there is nothing to be had any more.
      if (wants.size === 0 && (owned.size > 0 || !open())) {
        options.start()
        if (wantsOf().size > 0) continue
        idle = deferred()
        await idle.promise
        idle = undefined
        continue
      }
      asked = { wants, end: new AbortController() }
      changed = false
      try {
        // Ask first, then work on what is here: the broker looks for more meanwhile.
        const fetching = from.fetch(wants, { signal: asked.end.signal })
        options.start()
        const deliveries = await fetching
        asked = undefined
        error = undefined
        pause = 100
        for (const delivery of deliveries) accept(delivery)
      } catch (cause) {
        asked = undefined
        failed(cause)
        await clock.sleep(pause, { signal: left.signal }).catch(() => undefined)
        pause = Math.min(pause * 2, 5_000)
      }
    }
  }

  const accept = (delivery: Delivery): void => {
    const one = owned.get(delivery.partition)
    if (!one || one.epoch !== delivery.epoch || one.revoking || left.signal.aborted) return
    const job = new Job(delivery, one, group)
    one.add(job)
    source.buffered++
    options.accept(job)
  }

  // Progress. One settlement at a time; what is finished meanwhile is in the next one.

  const flushLater = (): void => {
    if (flushTimer || group === undefined || left.signal.aborted) return
    flushTimer = true
    void clock.sleep(options.flushMs, { background: true }).then(() => {
      flushTimer = false
      return flush()
    })
  }

  const flush = (): Promise<void> =>
    (flushing ??= settle().finally(() => {
      flushing = undefined
      // What finished meanwhile: its own timer may have found this settlement under way.
      if (dirty()) flushLater()
    }))

  const dirty = (): boolean => [...owned.values()].some((one) => one.dirty)

  const settle = async (): Promise<void> => {
    const ready = [...owned.values()].filter((one) => one.dirty)
    if (ready.length === 0 || group === undefined || !consumption) return
    const progress = ready.map((one) => one.take())
    try {
      const answers = await consumption.settle(progress)
      error = undefined
      answers.forEach((answer, i) => {
        if (answer === 'stale') lose(ready[i]!, 'its settlement was refused as stale')
      })
    } catch (cause) {
      ready.forEach((one, i) => one.restore(progress[i]!))
      failed(cause)
    }
  }

  /** Until everything is stored, or the time is up. */
  const flushFully = async (ms: number): Promise<void> => {
    const until = clock.monotonic() + ms
    for (let pause = 20; ; pause = Math.min(pause * 2, 500)) {
      await flush()
      if (group === undefined || !dirty() || clock.monotonic() >= until) return
      await clock.sleep(pause)
    }
  }

  // Ownership.

  const ownership: Ownership = {
    assigned: (partition, epoch) => {
      const before = owned.get(partition)
      if (before) lose(before, 'it was assigned anew')
      outlived = outlived.filter(({ running }) => running > 0)
      owned.set(
        partition,
        new Owned(
          source,
          partition,
          epoch,
          outlived.filter((one) => one.partition === partition),
        ),
      )
      changed = true
      kick()
    },
    revoking: (partition) => {
      const one = owned.get(partition)
      if (!one || one.revoking) return
      one.revoking = true
      drop(one)
      if (one.running === 0) void handOver(one)
    },
    lost: (partition, reason) => {
      const one = owned.get(partition)
      if (one) lose(one, reason)
    },
    renewed: (cause) => {
      renewal = cause
      if (cause !== undefined) options.onError(cause)
    },
  }

  const drop = (one: Owned): void => {
    for (const job of one.unfinished()) {
      if (job.running || job.dropped) continue
      job.dropped = true
      if (!job.waiting) source.buffered--
      source.count(job, false)
    }
    kick()
  }

  const forget = (one: Owned, reason: MessagingError): void => {
    if (one.gone.signal.aborted) return
    if (owned.get(one.partition) === one) owned.delete(one.partition)
    if (one.running > 0) outlived = [...outlived, one]
    drop(one)
    for (const job of one.unfinished()) if (job.running) options.abort(job, reason)
    one.gone.abort(reason)
  }

  const lose = (one: Owned, reason: string): void =>
    forget(one, new MessagingError('ERR_MESSAGING_OWNERSHIP_LOST', `Partition ${one.partition} of ${topic} was lost: ${reason}`, { retryable: true }))

  const release = async (one: Owned, reason: MessagingError): Promise<void> => {
    forget(one, reason)
    await consumption?.release(one.partition, one.epoch).catch(failed)
  }

  /** Drained: store what is done, then let go. */
  const handOver = async (one: Owned): Promise<void> => {
    await flushFully(2_000)
    if (!one.gone.signal.aborted)
      await release(one, new MessagingError('ERR_MESSAGING_OWNERSHIP_LOST', `Partition ${one.partition} of ${topic} was handed over`, { retryable: true }))
  }

  const source: Source & { consumption: Consumption } = {
    topic,
    owned,
    buffered: 0,
    count: (job, now) => {
      if (job.behind === now || (now && job.dropped)) return
      job.behind = now
      behind += now ? 1 : -1
    },
    get error() {
      return error ?? renewal
    },
    get consumption() {
      return consumption!
    },
    kick,
    /** One under way may have begun before the latest was finished. */
    flush: async () => {
      await flushing
      await flush()
    },
    finish: (job) => {
      if (job.owned.gone.signal.aborted) return false
      job.owned.finish(job)
      if (job.owned.unflushed >= options.flushEvery) void flush()
      else flushLater()
      return true
    },
    freed: (one) => {
      if (one.revoking && one.running === 0) void handOver(one)
    },
    interrupt: () => {
      asked?.end.abort(enough)
      idle?.resolve()
    },
    dropWaiting: () => {
      for (const one of owned.values()) drop(one)
    },
    leave: async () => {
      left.abort()
      source.interrupt()
      await flushFully(5_000)
      const reason = new MessagingError('ERR_MESSAGING_SHUTDOWN', 'The subscription closed', { retryable: true })
      await Promise.all([...owned.values()].map((one) => release(one, reason)))
      await pumping
      await consumption!.close().catch(failed)
    },
  }

  consumption = await driver.consume(topic, group, ownership)
  const pumping = pump(consumption)
  return source
}
