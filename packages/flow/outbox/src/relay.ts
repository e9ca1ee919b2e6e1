import { hostname } from 'node:os'
import { deferred, enough, orAborted } from '#internal/abort'
import { fullJitter, type Backoff } from '#internal/backoff'
import { systemClock } from '#internal/clock'
import { checkOptions } from '#internal/options'
import { uuidv7 } from '#internal/uuid'
import { answered as withDeadline } from './deadline.ts'
import { PublishTimeoutError } from './errors.ts'
import { createFailures, type Failed, type Send } from './failures.ts'
import { createHorizon } from './horizon.ts'
import { createLeases } from './leases.ts'
import { relayChecks } from './options.ts'
import { createOutbox } from './outbox.ts'
import { send, type Outcome } from './publish.ts'
import type { Relay, RelayOptions, RelayStats } from './relay-types.ts'
import { restoreRows, type Held, type Row } from './store.ts'
import { createTelling } from './telling.ts'

/** Between looks at what is held back and at the lease table's neighbours, in polls. */
const maintainPolls = 5
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
  const { tell, alarm, trouble } = createTelling(hooks, clock)
  const retry: Backoff = { initialMs: 100, maxMs: 10_000, multiplier: 2, ...options.retry }
  const failures = createFailures({ maxAttempts, retry, backoff, batch, random })
  /** What is sent by itself: it may take as long as it likes. */
  const beside = new Map<Send, Promise<unknown>>()
  /** Sends that ended and are not settled: what came of them, and how many were published when they began. */
  const answers: { one: Send; outcome: Outcome; before: number }[] = []
  /** Confirmed, to be deleted by the next statement. */
  let done: Row[] = []
  let blocked: ReadonlyMap<string, number> | undefined
  let state: RelayStats['state'] = 'new'
  let published = 0
  let failed = 0
  let parked = 0
  /** Since when the oldest row waits that is known of, by the monotonic clock. */
  let oldestSince: number | undefined
  /** Sends in a row of which the broker took nothing, nor of others meanwhile. */
  let outages = 0
  let databaseFailures = 0
  /** Whether a statement failed: what it did is unknown, and what it may still do. */
  let unsure = false
  /** Rows on their way to the parked. */
  let parking: readonly Poison[] = []
  let groupsMade = false
  /** How many topics had been cleared of suspicion at the last look: each may have rows that the walk has passed by. */
  let cleared = 0
  /** Whether the others know of it, and leave it its share. */
  let joined = false
  let maintainAt = 0
  let longestAt = 0
  /** Whether the last look may have left rows behind. */
  let backlog = true
  const rate: { at: number; n: number }[] = []

  const stopping = new AbortController()
  const ended = new AbortController()
  let waking = deferred()
  let woken = false
  let loop: Promise<unknown> = Promise.resolve()
  let keeping: Promise<unknown> = Promise.resolve()
  let unlisten: (() => Promise<unknown>) | undefined
  let starting: Promise<void> | undefined
  let closing: Promise<void> | undefined

  function pruneRate(now: number): void {
    while (rate[0] && rate[0].at < now - rateMs) rate.shift()
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
    await settleAnswers()
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
    const gained = await leases.balance(new Set([...beside.keys()].flatMap(({ rows }) => rows.map((row) => row.partition))))
    const held = leases.held().map((lease) => lease.partition)
    failures.forgetAllBut(held.filter((partition) => !gained.includes(partition)))
    if (gained.length === 0) return
    horizon.forget()
    blocked = undefined
    maintainAt = 0
  }

  async function maintain(): Promise<void> {
    const now = clock.monotonic()
    if (now < maintainAt || leases.held().length === 0) return
    const found = await answered(queue.restore(db, leases.held(), { skip: onPark === 'skip-key', known: blocked }))
    blocked = found.blocked
    for (const partition of found.restored) horizon.reset(partition)
    horizon.look(await answered(queue.horizon(db)))
    if (now >= longestAt) {
      longestAt = now + 10_000
      const longest = await answered(queue.longest(db, alarmMs))
      if (longest) alarm({ kind: 'long-transaction', ...longest })
    }
    if (found.moved < restoreRows) maintainAt = now + maintainPolls * pollMs
  }

  async function read(): Promise<{ rows: readonly Row[]; more: boolean }> {
    const partitions = leases.held().map((lease) => lease.partition)
    const now = clock.monotonic()
    const { limit, others, low, cleared: total, ...except } = failures.look(now)
    const all = except.lanes.length + except.topics.length === 0
    if (total !== cleared) horizon.walkAnew()
    cleared = total
    const walk = others ? horizon.walk() : undefined
    const confirmed = done
    const from = partitions.map((partition) => ({ partition, low: Math.max(horizon.low(partition), walk?.low ?? low) }))
    const asked = { done: confirmed, from, upTo: walk?.upTo, except, limit, limitBytes: batchBytes, few: !backlog }
    backlog = true // Unless it answers that there is none.
    const rows = await answered(queue.next(db, asked)).catch((error: unknown) => {
      failures.anew() // Leaving out much may be what the database had no patience for.
      throw error
    })
    done = done.slice(confirmed.length)
    backlog = rows.length === limit || rows.reduce((bytes, row) => bytes + row.value.length, 0) >= batchBytes
    // Rows that were left out are still there, so nothing is behind us for certain.
    if (all) horizon.read(partitions, rows, backlog)
    const since = rows[0] && clock.monotonic() - rows[0].ageMs
    // Rows that wait for their next try were left out, and may be older than what was read.
    oldestSince = !all && oldestSince !== undefined ? Math.min(oldestSince, since ?? Infinity) : since
    if (oldestAge() >= alarmMs) alarm({ kind: 'oldest-age', ageMs: oldestAge() })
    const over = !walk || horizon.walked(walk, rows[0]?.id)
    return { rows, more: failures.looked(rows, { full: backlog || except.topics.length > 0, over }, now) || rows.length > 0 }
  }

  async function flush(): Promise<void> {
    if (done.length === 0) return
    const confirmed = done
    await answered(queue.next(db, { done: confirmed, from: [], except: { lanes: [], topics: [] }, limit: 0, limitBytes: 0 }))
    done = done.slice(confirmed.length)
  }

  /** One look, and what it shows sent: the topics under suspicion beside, the rest together. Returns whether to look again at once. */
  async function turn(): Promise<boolean> {
    await settleAnswers()
    const { rows, more } = await read()
    const waits = (row: Row): boolean => row.id >= (blocked?.get(row.lane) ?? Infinity)
    const waitingBehind = rows.filter(waits)
    if (waitingBehind.length > 0) await hold(waitingBehind.map(({ id, partition }) => ({ id, partition, state: 'blocked' })))
    const ours = new Set(leases.held().map((lease) => lease.partition)) // The look may have taken longer than the leases last.
    const sends = failures.sends(rows.filter((row) => !waits(row) && ours.has(row.partition)))
    for (const one of sends) if (one.apart !== undefined) beside.set(one, publish(one).then(self.wake))
    for (const one of sends) if (one.apart === undefined) await publish(one)
    await settleAnswers()
    if (sends.length === 0 && beside.size === 0 && failures.calm()) state = 'running'
    return more
  }

  async function publish(one: Send): Promise<void> {
    const before = published
    const outcome = await send(publisher, one.rows, { clock, timeoutMs: publishTimeoutMs, stopping: stopping.signal })
    answers.push({ one, outcome, before })
  }

  async function settleAnswers(): Promise<void> {
    for (let answer = answers.shift(); answer; answer = answers.shift()) await settle(answer)
  }

  async function settle({ one, outcome, before }: (typeof answers)[number]): Promise<void> {
    beside.delete(one)
    const now = clock.monotonic()
    const { stored, failed: notStored, poison, refused } = failures.settle(one, outcome, now)
    const outage = notStored.length > 0 && !refused && published + stored.length === before
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
    failed += notStored.length
    if (notStored[0]) tell('onError', notStored[0].error, 'publish')
    outages = outage ? outages + 1 : 0
    state = outage ? 'broker-down' : 'running'
    if (outage && one.apart === undefined) await backOff(outages)
    if (poison.length > 0) await park(poison.map((last) => ({ row: last.row, held: asParked(last, failures.attempts(last.row)) })))
  }

  async function park(poison: readonly Poison[]): Promise<void> {
    parking = [...parking, ...poison]
    const moved = await hold(poison.map(({ held }) => held))
    parking = parking.filter((one) => !poison.includes(one))
    for (const one of poison) if (moved.includes(one.row.id)) wasParked(one)
  }

  function wasParked({ row, held: { error } }: Poison): void {
    failures.forget(row)
    parked++
    if (onPark === 'block-key' && row.key !== undefined) blocked = new Map(blocked).set(row.lane, Math.min(row.id, blocked?.get(row.lane) ?? Infinity))
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
        if (!joined) await leases.renew()
        joined = true
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
      if (!joined) continue
      await leases.renew().catch((error: unknown) => tell('onError', error, 'database'))
    }
  }

  async function startListening(listens: NonNullable<typeof listen>): Promise<void> {
    unlisten = await listens(outbox.channel, self.wake)
    if (closing) await unlisten() // It came too late.
  }

  async function begin(): Promise<void> {
    try {
      await answered(queue.horizon(db))
    } catch (error) {
      if ((error as { code?: unknown } | null)?.code === 'ERR_OUTBOX_SCHEMA') throw error
      tell('onError', error, 'database')
    }
    if (stopping.signal.aborted) return
    if (wake === 'poll+notify')
      await orAborted(answered(startListening(listen!)), stopping.signal).catch((error: unknown) => {
        if (!closing) tell('onError', error, 'database')
      })
    state = 'running'
    loop = run()
    keeping = keepLeases()
  }

  async function end(): Promise<void> {
    stopping.abort(new Error('The relay is closed'))
    await starting?.catch(() => undefined)
    await loop
    await (unlisten && answered(unlisten()).catch(() => undefined))
    const last = async (step: () => Promise<unknown>): Promise<unknown> => step().catch((error: unknown) => tell('onError', error, 'database'))
    const finish = (): Promise<unknown> => last(settleAnswers).then(() => last(flush))
    await finish() // Not after what may still take its time.
    await Promise.all(beside.values())
    await finish()
    if (joined) await last(() => leases.leave())
    ended.abort()
    await keeping
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
        error: state.endsWith('-down') ? trouble() : undefined,
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

function asParked({ row, error }: Failed, attempts: number): Poison['held'] {
  return {
    id: row.id,
    partition: row.partition,
    state: 'parked',
    attempts,
    error: { code: typeof error.code === 'string' ? error.code : error.name, message: error.message.slice(0, 2_000) },
  }
}
