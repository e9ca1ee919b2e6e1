import { deferred, enough } from '#internal/abort'
import type { Clock } from '#internal/clock'
import { closedError, MessagingError } from '../errors.ts'
import type { Connection } from './connection.ts'
import type { Statements } from './statements.ts'

/** How far partitions are written, as far as this process knows: it learns from what it publishes, from one poll for all, and at once when somebody wakes it. */
export interface Heads {
  /** The offset after the last known one. */
  next(pid: number): number
  learn(pid: number, next: number): void
  /** Lets who waits for this partition look again. */
  stir(pid: number): void
  /** Polls for these partitions until the function it gives is called. */
  watch(pids: readonly number[]): () => void
  /** Whether the last poll failed. */
  readonly failing: boolean
  /** Waits for news of one of the partitions. Rejects when the poll fails, so that an outage shows; `recovered` when it works again. */
  wait(pids: Iterable<number>, signal: AbortSignal): Promise<'news' | 'recovered' | 'aborted'>
  /** Messages flow: look often. */
  busy(): void
  /** A delayed message will be due then, ms since the epoch. */
  delayed(due: number): void
  wake(): void
  close(): void
}

export interface HeadsOptions {
  connection: Connection
  sql: Statements
  clock: Clock
  /** Between two polls while messages flow, and at most. */
  pollMs: number
  idlePollMs: number
  /** True while somebody wakes us: then the slow poll is enough. */
  listening(): boolean
  /** Called at every poll. */
  onPoll(): void
}

interface Waiter {
  readonly pids: Iterable<number>
  resolve(why: 'news' | 'recovered' | 'aborted'): void
  reject(error: unknown): void
}

interface Answer {
  heads: string | null
  due_in_ms: number | null
  now: number
  /** Partitions that are asked about and not there any more. */
  gone: string | null
}

export function createHeads({ connection, sql, clock, pollMs, idlePollMs, listening, onPoll }: HeadsOptions): Heads {
  const watched = new Map<number, number>()
  const known = new Map<number, number>()
  const waiting = new Map<number, Set<Waiter>>()
  const waiters = new Set<Waiter>()
  let pause = pollMs
  /** On the monotonic clock. */
  let dueAt = Infinity
  let sleep: { until: number; nudge: AbortController } | undefined
  let failing = false
  let running = false
  /** Somebody woke us during a poll, which may have looked too early. */
  let woken = false
  let closed = false

  const learn = (pid: number, next: number): void => {
    if (next <= (known.get(pid) ?? -1)) return
    known.set(pid, next)
    stir(pid)
  }

  const stir = (pid: number): void => {
    for (const waiter of waiting.get(pid) ?? []) waiter.resolve('news')
  }

  const wait = async (pids: Iterable<number>, signal: AbortSignal): Promise<'news' | 'recovered' | 'aborted'> => {
    if (closed) throw closedError('The postgres driver')
    const { promise, resolve, reject } = deferred<'news' | 'recovered' | 'aborted'>()
    const waiter = { pids, resolve, reject }
    const onAbort = (): void => resolve('aborted')
    waiters.add(waiter)
    for (const pid of pids) {
      const set = waiting.get(pid)
      if (set) set.add(waiter)
      else waiting.set(pid, new Set([waiter]))
    }
    signal.addEventListener('abort', onAbort, { once: true })
    replan()
    try {
      return await promise
    } finally {
      signal.removeEventListener('abort', onAbort)
      waiters.delete(waiter)
      for (const pid of pids) {
        const set = waiting.get(pid)!
        set.delete(waiter)
        if (set.size === 0) waiting.delete(pid)
      }
    }
  }

  const nextPoll = (): number => {
    const regular = waiters.size > 0 && !listening() ? pause : idlePollMs
    return Math.min(clock.monotonic() + regular, Math.max(dueAt, clock.monotonic() + 1))
  }

  /** Somebody waits now, or something is due earlier: sleep less. */
  const replan = (): void => {
    if (sleep && nextPoll() < sleep.until) sleep.nudge.abort(enough)
  }

  const loop = async (): Promise<void> => {
    let at = nextPoll()
    while (watched.size > 0 && !closed) {
      const mine = (sleep = { until: at, nudge: new AbortController() })
      await clock.sleep(Math.max(0, at - clock.monotonic()), { signal: mine.nudge.signal }).catch(() => undefined)
      sleep = undefined
      if (clock.monotonic() >= mine.until && watched.size > 0 && !closed) {
        woken = false
        await poll()
        at = woken ? 0 : nextPoll()
      } else at = Math.min(at, nextPoll())
    }
    running = false
  }

  const poll = async (): Promise<void> => {
    onPoll()
    try {
      const pids = [...watched.keys()]
      const [answer] = await connection.run<Answer>(sql.poll, [`{${pids.join(',')}}`, `{${pids.map(next).join(',')}}`])
      const { heads, due_in_ms: dueInMs, now, gone } = answer!
      pause = Math.min(pause * 1.25, idlePollMs)
      for (const [pid, head] of JSON.parse(heads ?? '[]') as [number, number][]) {
        pause = pollMs
        learn(pid, head)
      }
      for (const pid of JSON.parse(gone ?? '[]') as number[])
        for (const waiter of waiting.get(pid) ?? [])
          waiter.reject(new MessagingError('ERR_MESSAGING_TOPIC_NOT_FOUND', 'The topic that was read from is gone', { retryable: false }))
      dueAt = dueInMs === null ? Infinity : clock.monotonic() + dueInMs
      if (dueInMs !== null && dueInMs <= 0) await moveDue(now)
      if (failing) for (const waiter of waiters) waiter.resolve('recovered')
      failing = false
    } catch (error) {
      failing = true
      for (const waiter of waiters) waiter.reject(error)
    }
  }

  /** Any process that reads moves what is due, on whichever topic. */
  const moveDue = async (now: number): Promise<void> => {
    pause = pollMs
    dueAt = clock.monotonic() + pollMs
    for (const row of await connection.run<{ pid: number; next: number }>(sql.moveDue, [String(now)])) learn(row.pid, row.next)
  }

  const next = (pid: number): number => known.get(pid) ?? 0

  return {
    get failing() {
      return failing
    },
    next,
    learn,
    stir,
    wait,
    watch: (pids) => {
      for (const pid of pids) watched.set(pid, (watched.get(pid) ?? 0) + 1)
      if (!running && !closed) {
        running = true
        void loop()
      }
      let on = true
      return () => {
        if (!on) return
        on = false
        for (const pid of pids) {
          const uses = watched.get(pid)! - 1
          if (uses > 0) watched.set(pid, uses)
          else {
            watched.delete(pid)
            known.delete(pid)
          }
        }
        if (watched.size === 0) sleep?.nudge.abort(enough)
      }
    },
    busy: () => {
      pause = pollMs
    },
    delayed: (due) => {
      dueAt = Math.min(dueAt, clock.monotonic() + due - clock.now())
      replan()
    },
    wake: () => {
      woken = true
      if (!sleep) return
      sleep.until = 0
      sleep.nudge.abort(enough)
    },
    close: () => {
      closed = true
      sleep?.nudge.abort(enough)
      for (const waiter of waiters) waiter.reject(closedError('The postgres driver'))
    },
  }
}
