import { hostname } from 'node:os'
import { deferred, enough, orAborted } from '#internal/abort'
import { fullJitter, type Backoff } from '#internal/backoff'
import { unheard, watched } from '#internal/callbacks'
import { systemClock } from '#internal/clock'
import { checkOptions } from '#internal/options'
import { uuidv7 } from '#internal/uuid'
import { answered as withDeadline } from './deadline.ts'
import { PublishTimeoutError } from './errors.ts'
import { createFailures } from './failures.ts'
import { createHorizon } from './horizon.ts'
import { createLeases } from './leases.ts'
import { relayChecks } from './options.ts'
import { createOutbox } from './outbox.ts'
import { send, type SendResult } from './publish.ts'
import type { Alarm, Relay, RelayHooks, RelayOptions, RelayStats } from './relay-types.ts'
import { restoreRows, type Held, type Row } from './store.ts'

/** Between looks at what is held back and at the lease table's neighbours, in polls. */
const maintainPolls = 5
const alarmEveryMs = 60_000
const rateMs = 10_000
/** Bodies read at a time; a message's own may come on top. */
const batchBytes = 4 * 1_048_576

/**
 * Moves committed rows to the publisher. Every loop is one statement and one batch: delete what the last batch confirmed and read the next rows of the partitions
 * held, publish them, remember what was stored. A crash anywhere in between publishes a batch again, under the same ids, and loses nothing.
 */
export function relay(options: RelayOptions): Relay {
  checkOptions('relay', options, relayChecks, ['db', 'publisher'])
  const {
    db,
    publisher,
    outbox = createOutbox(),
    batch = 500,
    pollMs = 100,
    wake = 'poll',
    listen,
    groups = {},
    leaseMs = 5_000,
    publishTimeoutMs = 35_000,
  } = options
  const { maxAttempts = 8, onPark = 'block-key', alarmMs = 60_000, hooks = {}, clock = systemClock, random = Math.random } = options
  if (wake === 'poll+notify' && !listen) throw new TypeError("wake 'poll+notify' needs listen")
  const backoff: Backoff = { initialMs: 50, maxMs: 1_000, multiplier: 2, ...options.backoff }

  const { queue } = outbox.store
  const leases = createLeases(outbox.store.leases, db, `${hostname()}/${uuidv7()}`, leaseMs, clock)
  const horizon = createHorizon()
  const failures = createFailures(maxAttempts, { initialMs: 100, maxMs: 10_000, multiplier: 2, ...options.retry }, random)
  /** Confirmed, to be deleted by the next statement. */
  let done: Row[] = []
  let blocked: ReadonlySet<string> = new Set()
  let state: RelayStats['state'] = 'new'
  let trouble: unknown
  let published = 0
  let failed = 0
  let parked = 0
  /** Since when the oldest row waits that is known of, by the monotonic clock. */
  let oldestSince: number | undefined
  /** Batches in a row of which the broker took nothing. */
  let outages = 0
  /** Rows to send at once: halved while a batch fails as a whole, so that one row that spoils it is found and cannot pass for an outage. */
  let size = batch
  let databaseFailures = 0
  /** Whether a statement failed: what it did is unknown, and what it may still do. */
  let unsure = false
  /** Rows on their way to the parked. */
  let parking: readonly Poison[] = []
  let groupsMade = false
  let maintainAt = 0
  let longestAt = 0
  const alarmedAt = new Map<Alarm['kind'], number>()
  const rate: { at: number; n: number }[] = []

  const stopping = new AbortController()
  const ended = new AbortController()
  let waking = deferred()
  let woken = false
  let loop: Promise<unknown> = Promise.resolve()
  let unlisten: (() => Promise<unknown>) | undefined
  let starting: Promise<void> | undefined
  let closing: Promise<void> | undefined

  function tell<K extends keyof RelayHooks>(hook: K, ...args: Parameters<NonNullable<RelayHooks[K]>>): void {
    if (hook === 'onError') trouble = args[0]
    if (hook === 'onError' && !hooks.onError)
      unheard('onError', 'OutboxWarning', `The relay cannot ${args[1] === 'publish' ? 'publish' : 'use the database'}`, args[0])
    // Watching must not stop the work.
    watched(`Hook ${hook}`, 'OutboxWarning', () => (hooks[hook] as ((...a: unknown[]) => unknown) | undefined)?.(...args))
  }

  function pruneRate(now: number): void {
    while (rate[0] && rate[0].at < now - rateMs) rate.shift()
  }

  function alarm(given: Alarm): void {
    const now = clock.monotonic()
    if (now - (alarmedAt.get(given.kind) ?? -Infinity) < alarmEveryMs) return
    alarmedAt.set(given.kind, now)
    tell('onAlarm', given)
  }

  const oldestAge = (): number => (oldestSince === undefined ? 0 : clock.monotonic() - oldestSince)

  const answered = <T>(statement: Promise<T>): Promise<T> => withDeadline(statement, clock)

  /** After a failure: new rows are no reason to try again sooner. */
  const backOff = (failuresInARow: number): Promise<void> =>
    clock.sleep(fullJitter(failuresInARow, backoff, random), { signal: stopping.signal }).catch(() => undefined)

  /** With nothing to do: until the next look, or somebody knows better. */
  async function idle(): Promise<void> {
    if (!woken) {
      const over = new AbortController()
      waking = deferred()
      await Promise.race([waking.promise, clock.sleep(pollMs, { signal: AbortSignal.any([over.signal, stopping.signal]) }).catch(() => undefined)])
      over.abort(enough)
    }
    woken = false
  }

  /**
   * A move whose answer was lost may have been done, or may be done later. Under the higher epoch that `gain` then gets it no longer can, and what was done by
   * then `gain` makes us see: what is blocked, and old ids that came back.
   */
  async function makeSure(): Promise<void> {
    await flush()
    await leases.leave()
    await leases.renew()
    const moved: Poison[] = []
    for (const poison of parking) {
      const [next] = await answered(outbox.store.rows.listParked(db, poison.row.id - 1, 1))
      if (next?.id === poison.row.id) moved.push(poison)
    }
    parking = []
    for (const poison of moved) wasParked(poison)
    unsure = false
  }

  async function gain(): Promise<void> {
    if (!leases.seen()) return
    await flush() // What is given up must hold nothing that was confirmed, or the next holder would send it again.
    const gained = await leases.balance()
    if (gained.length === 0) return
    for (const partition of gained) horizon.reset(partition)
    maintainAt = 0
    failures.forgetAllBut(leases.held().map((lease) => lease.partition))
  }

  async function maintain(): Promise<void> {
    const now = clock.monotonic()
    if (now < maintainAt || leases.held().length === 0) return
    const { moved, restored, blocked: lanes } = await answered(queue.restore(db, leases.held(), onPark === 'skip-key'))
    blocked = new Set(lanes)
    for (const partition of restored) horizon.reset(partition)
    horizon.look(await answered(queue.horizon(db)))
    if (now >= longestAt) {
      longestAt = now + 10_000
      const longest = await answered(queue.longest(db, alarmMs))
      if (longest) alarm({ kind: 'long-transaction', ...longest })
    }
    if (moved < restoreRows) maintainAt = now + maintainPolls * pollMs
  }

  async function read(): Promise<readonly Row[]> {
    const partitions = leases.held().map((lease) => lease.partition)
    const except = failures.excluded(clock.monotonic())
    const all = except.lanes.length + except.topics.length === 0
    const confirmed = done
    const from = partitions.map((partition) => ({ partition, low: horizon.low(partition) }))
    const rows = await answered(queue.next(db, { done: confirmed, from, except, limit: size, limitBytes: batchBytes })).catch((error: unknown) => {
      failures.anew() // Leaving out much may be what the database had no patience for.
      throw error
    })
    done = done.slice(confirmed.length)
    const full = rows.length === size || rows.reduce((bytes, row) => bytes + row.value.length, 0) >= batchBytes
    // Rows that were left out are still there, so nothing is behind us for certain.
    if (all) horizon.read(partitions, rows, full)
    const since = rows[0] && clock.monotonic() - rows[0].ageMs
    // Rows that wait for their next try were left out, and may be older than what was read.
    oldestSince = !all && oldestSince !== undefined ? Math.min(oldestSince, since ?? Infinity) : since
    if (oldestAge() >= alarmMs) alarm({ kind: 'oldest-age', ageMs: oldestAge() })
    return rows
  }

  async function flush(): Promise<void> {
    if (done.length === 0) return
    const confirmed = done
    await answered(queue.next(db, { done: confirmed, from: [], except: { lanes: [], topics: [] }, limit: 0, limitBytes: 0 }))
    done = done.slice(confirmed.length)
  }

  /** One batch. Returns whether to look again at once. */
  async function turn(): Promise<boolean> {
    const rows = await read()
    const waitingBehind = rows.filter((row) => blocked.has(row.lane))
    if (waitingBehind.length > 0) await hold(waitingBehind.map(({ id, partition }) => ({ id, partition, state: 'blocked' })))
    const ready = rows.filter((row) => !blocked.has(row.lane))
    // While nothing is taken, a topic that hangs, or spoils its batch, does so to itself alone.
    const chosen = outages === 0 ? ready : ready.filter((row) => row.topic === ready[0]!.topic)
    if (chosen.length === 0) {
      const others = failures.further()
      if (!others) state = 'running'
      return rows.length > 0 || others
    }
    const { results, individually } = await send(publisher, chosen, { clock, timeoutMs: publishTimeoutMs })
    return settle(chosen, results, individually)
  }

  async function settle(rows: readonly Row[], results: readonly SendResult[], individually: boolean): Promise<boolean> {
    const stored = rows.filter((_, i) => results[i]!.status === 'stored')
    const now = clock.monotonic()
    for (const row of stored) failures.stored(row)
    if (stored.length > 0) {
      done = [...done, ...stored]
      published += stored.length
      rate.push({ at: now, n: stored.length })
      pruneRate(now)
      tell(
        'onPublished',
        stored.map((row) => ({ id: row.messageId, topic: row.topic })),
      )
    }
    const failedLanes = new Set<string>()
    const poison: Poison[] = []
    let refused = false
    for (const [i, row] of rows.entries()) {
      const { status, error = noReason } = results[i]!
      // Only the first of a lane was tried for certain: those behind it are held back whatever they are.
      if (status === 'stored' || status === 'untried' || failedLanes.has(row.lane)) continue
      failedLanes.add(row.lane)
      failed++
      const final = status === 'rejected' && error.retryable === false
      refused ||= final
      if (failures.failed(row, { final, othersStored: stored.length > 0, individually }, now) === 'park')
        poison.push({ row, held: asParked(row, failures.attempts(row), error) })
      if (failedLanes.size === 1) tell('onError', error, 'publish')
    }
    const outage = stored.length === 0 && !refused
    outages = outage ? outages + 1 : 0
    if (outage) {
      for (const topic of new Set(rows.map((row) => row.topic))) failures.tookNothing(topic)
      if (!individually) size = Math.max(1, Math.floor(rows.length / 2))
    } else {
      failures.anew()
      size = Math.min(batch, size * 2)
    }
    if (poison.length > 0) await park(poison)
    if (outage) {
      state = 'broker-down'
      await backOff(outages)
    } else state = 'running'
    return true
  }

  async function park(poison: readonly Poison[]): Promise<void> {
    parking = poison
    const moved = await hold(poison.map(({ held }) => held))
    parking = []
    for (const one of poison) if (moved.includes(one.row.id)) wasParked(one)
  }

  function wasParked({ row, held: { error } }: Poison): void {
    failures.stored(row)
    parked++
    if (onPark === 'block-key' && row.key !== undefined) blocked = new Set([...blocked, row.lane])
    tell('onParked', { id: row.messageId, topic: row.topic, key: row.key, error: Object.assign(new Error(error.message), { code: error.code }) })
  }

  const hold = (rows: readonly Held[]): Promise<readonly number[]> => answered(queue.hold(db, leases.held(), rows))

  async function makeGroups(): Promise<void> {
    if (groupsMade || !publisher.createGroup) return
    const late = (): Error => new PublishTimeoutError(publishTimeoutMs)
    for (const [topic, names] of Object.entries(groups))
      for (const group of names) await orAborted(withDeadline(publisher.createGroup(topic, group), clock, publishTimeoutMs, late), stopping.signal)
    groupsMade = true
  }

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      try {
        await makeGroups()
      } catch (error) {
        if (stopping.signal.aborted) return
        state = 'broker-down'
        tell('onError', error, 'publish')
        await backOff(++outages)
        continue
      }
      try {
        if (unsure) await makeSure()
        await gain()
        await maintain()
        const more = await turn()
        databaseFailures = 0
        if (!more) await idle()
      } catch (error) {
        unsure = true
        state = 'database-down'
        tell('onError', error, 'database')
        await backOff(++databaseFailures)
      }
    }
  }

  /** Beside the work: a batch may take longer than a lease. */
  async function keepLeases(): Promise<void> {
    while (!ended.signal.aborted) {
      await clock.sleep(leaseMs / 3, { signal: ended.signal }).catch(() => undefined)
      if (ended.signal.aborted) return
      await leases.renew().catch((error: unknown) => tell('onError', error, 'database'))
    }
  }

  async function begin(): Promise<void> {
    try {
      await leases.renew()
    } catch (error) {
      if ((error as { code?: unknown } | null)?.code === 'ERR_OUTBOX_SCHEMA') throw error
      tell('onError', error, 'database')
    }
    if (stopping.signal.aborted) return
    if (wake === 'poll+notify')
      await listen!(outbox.channel, self.wake)
        .then((end) => (unlisten = end))
        .catch((error: unknown) => tell('onError', error, 'database'))
    state = 'running'
    loop = Promise.all([run().finally(() => ended.abort()), keepLeases()])
  }

  async function end(): Promise<void> {
    await starting?.catch(() => undefined)
    stopping.abort(new Error('The relay is closed'))
    await loop
    await unlisten?.().catch(() => undefined)
    try {
      await flush()
      if (state !== 'new') await leases.leave()
    } catch (error) {
      tell('onError', error, 'database')
    }
    state = 'closed'
  }

  const self: Relay = {
    start: () => {
      if (closing) throw new TypeError('The relay is closed')
      return (starting ??= begin().catch((error: unknown) => {
        starting = undefined // May be tried again, once the tables are there.
        throw error
      }))
    },
    wake: () => {
      woken = true
      waking.resolve()
    },
    stats: () => {
      pruneRate(clock.monotonic())
      return {
        state,
        published,
        publishedPerSecond: rate.reduce((sum, { n }) => sum + n, 0) / (rateMs / 1_000),
        failed,
        parked,
        partitions: leases.held().length,
        error: state.endsWith('-down') ? trouble : undefined,
      }
    },
    counts: () => outbox.counts(db),
    parked: outbox.parked(db),
    check: () => {
      const oldestAgeMs = oldestAge()
      return Promise.resolve({ status: state === 'running' && oldestAgeMs < alarmMs ? 'ok' : 'degraded', state, oldestAgeMs })
    },
    close: () => (closing ??= end()),
    [Symbol.asyncDispose]: () => self.close(),
  }
  return self
}

interface Poison {
  readonly row: Row
  readonly held: Held & { state: 'parked' }
}

/** For a publisher that refuses without saying why. */
const noReason: NonNullable<SendResult['error']> = new Error('The publisher gave no reason')

function asParked(row: Row, attempts: number, error: NonNullable<SendResult['error']>): Held & { state: 'parked' } {
  return {
    id: row.id,
    partition: row.partition,
    state: 'parked',
    attempts,
    error: { code: typeof error.code === 'string' ? error.code : error.name, message: error.message.slice(0, 2_000) },
  }
}
