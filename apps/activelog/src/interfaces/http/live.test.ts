import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { virtualClock } from '@core-backend/events/testing'
import { waitUntil } from '@core-backend/testkit/wait-until'
import type { EventLog, LoggedEvent } from '../../application/ports.ts'
import { newActivity } from '../../domain/activity.ts'
import { problem } from './problem.ts'
import { createLive as createLiveOf, type Live, type LiveOptions } from './live.ts'

const activity = newActivity({ userId: 1, type: 'yoga', title: 'x', durationMinutes: 1, activityDate: '2026-01-01' }, { id: 'a', now: new Date('2026-01-01') })

const quiet = { debug() {}, info() {}, warn() {}, error() {} }
/** Its clock stands still unless a test moves it: no poll hides that an event was not told of. */
const createLive = (options: Omit<LiveOptions, 'logger'> & Partial<LiveOptions>): Live => createLiveOf({ logger: quiet, clock: virtualClock(), ...options })
const event = (n: number): LoggedEvent => ({ id: `event-${n}`, txid: String(n), name: 'activity.created', activity })
const ids = (events: readonly LoggedEvent[]): string[] => events.map(({ id }) => id)

/** A log in memory. `wait` holds every look up; `looks` counts them. */
function memoryLog(): EventLog & { add(tenant: string, ...events: LoggedEvent[]): void; looks: number; wait: Promise<unknown> } {
  const stored = new Map<string, LoggedEvent[]>()
  const of = (tenant: string): LoggedEvent[] => stored.get(tenant) ?? []
  return {
    looks: 0,
    wait: Promise.resolve(),
    add: (tenant, ...events) => void stored.set(tenant, [...of(tenant), ...events]),
    async position(tenant, id) {
      if (id === undefined) return of(tenant).at(-1) ?? { txid: '0', id: '0' }
      return of(tenant).find((one) => one.id === id) ?? { txid: '0', id: '0' }
    },
    async after(tenant, { txid }, limit, limitBytes) {
      this.looks++
      const found = of(tenant)
        .filter((one) => Number(one.txid) > Number(txid))
        .slice(0, limit)
      let bytes = 0
      const most = found.findIndex((one) => (bytes += JSON.stringify(one.activity).length) >= limitBytes)
      if (most >= 0) found.length = most + 1
      await this.wait
      return found
    },
  }
}

/** What a client gets: ids as they come, `end` at the end. */
function read(stream: ReadableStream<Uint8Array>): { got: string[]; text: () => string; cancel: () => Promise<void> } {
  const got: string[] = []
  let text = ''
  const reader = stream.getReader()
  void (async () => {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return got.push('end')
      const chunk = Buffer.from(value).toString()
      text += chunk
      got.push(...Array.from(chunk.matchAll(/^id: (event-.*)\nevent: /gm), ([, id]) => id!))
    }
  })()
  return { got, text: () => text, cancel: () => reader.cancel() }
}

const using = async (live: Live, fn: () => Promise<void>): Promise<void> => fn().finally(live.close)

test("each listener gets its tenant's events from now on, as server-sent events", async () => {
  const log = memoryLog()
  const live = createLive({ log })
  await using(live, async () => {
    log.add('acme', event(1))
    const acme = read(await live.open('acme', undefined))
    const globex = read(await live.open('globex', undefined))
    log.add('acme', event(2))
    log.add('globex', event(3))
    live.wake('acme')
    live.wake('globex')
    await waitUntil(() => acme.got.length === 1 && globex.got.length === 1)
    assert.deepEqual([acme.got, globex.got], [['event-2'], ['event-3']])
    assert.equal(acme.text(), `retry: 1000\nid: event-1\n\nid: event-2\nevent: activity.created\ndata: ${JSON.stringify(activity)}\n\n`)
    assert.equal(live.listeners, 2)
  })
})

test('who comes back gets what was missed, page by page, and what comes meanwhile, each once and in order', async () => {
  const log = memoryLog()
  const stored = Array.from({ length: 1_234 }, (_, n) => event(n))
  log.add('acme', ...stored)
  const gate = Promise.withResolvers<void>()
  log.wait = gate.promise
  const live = createLive({ log })
  await using(live, async () => {
    const { got } = read(await live.open('acme', 'event-9'))
    await waitUntil(() => log.looks === 1)
    log.add('acme', event(1_234))
    live.wake('acme')
    gate.resolve()
    await waitUntil(() => got.length === 1_225)
    log.add('acme', event(1_235))
    live.wake('acme')
    await waitUntil(() => got.length === 1_226)
    assert.deepEqual(got, [...ids(stored.slice(10)), 'event-1234', 'event-1235'])
  })
})

test('an event that comes while the log is looked through is found by the next look', async () => {
  const log = memoryLog()
  const gate = Promise.withResolvers<void>()
  log.wait = gate.promise
  const live = createLive({ log })
  await using(live, async () => {
    const { got } = read(await live.open('acme', undefined))
    await waitUntil(() => log.looks === 1)
    log.add('acme', event(1))
    live.wake('acme')
    const late = read(await live.open('acme', 'unknown'))
    gate.resolve()
    await waitUntil(() => got.length === 1 && late.got.length === 1)
  })
})

test('a slow reader loses nothing and is not cut off, whatever comes meanwhile: it is read for when it asks', async () => {
  const log = memoryLog()
  const live = createLive({ log })
  await using(live, async () => {
    const reader = (await live.open('acme', undefined)).getReader()
    const got: string[] = []
    for (let n = 1; got.length < 8_000; n++) {
      // Twice what it reads, round by round.
      if (n <= 8) log.add('acme', ...Array.from({ length: 1_000 }, (_, k) => event((n - 1) * 1_000 + k + 1)))
      live.wake('acme')
      const looks = log.looks
      const { value } = await reader.read()
      await setImmediate()
      assert.ok(log.looks - looks <= 2, 'nothing is read ahead of a reader')
      got.push(
        ...Array.from(
          Buffer.from(value!)
            .toString()
            .matchAll(/^id: event-(.*)$/gm),
          ([, id]) => id!,
        ),
      )
    }
    assert.deepEqual(
      got,
      Array.from({ length: 8_000 }, (_, n) => String(n + 1)),
    )
    assert.equal(live.listeners, 1)
    await reader.cancel()
  })
})

test('a look is 256 KB at most, and none is made for who does not read', async () => {
  const log = memoryLog()
  const live = createLive({ log })
  await using(live, async () => {
    log.add('acme', ...Array.from({ length: 100 }, (_, n) => ({ ...event(n + 1), activity: { ...activity, notes: 'x'.repeat(12_000) } })))
    const stream = await live.open('acme', 'event-1')
    await setImmediate()
    assert.equal(log.looks, 0)
    const reader = stream.getReader()
    const sizes: number[] = []
    while (sizes.reduce((sum, size) => sum + size, 0) < 99 * 12_000) sizes.push((await reader.read()).value!.length)
    assert.equal(log.looks, sizes.length - 1)
    assert.ok(Math.max(...sizes) < 2 ** 18 + 13_000, sizes.join())
    await reader.cancel()
  })
})

test('a tenant has so many listeners in a process, and the next is told to come back', async () => {
  const log = memoryLog()
  let away = true
  const position: EventLog['position'] = (...given) => (away ? Promise.reject(new Error('no database')) : log.position(...given))
  const live = createLive({ log: { position, after: log.after }, maxListeners: 2 })
  await using(live, async () => {
    await assert.rejects(live.open('acme', undefined), { message: 'no database' })
    away = false
    const opened = await Promise.allSettled([1, 2, 3, 4].map(() => live.open('acme', undefined)))
    assert.deepEqual(
      opened.map(({ status }) => status),
      ['fulfilled', 'fulfilled', 'rejected', 'rejected'],
    )
    const answer = problem((opened[2] as PromiseRejectedResult).reason, 'r')
    assert.deepEqual([answer.status, answer.headers.get('retry-after')], [503, '1'])
    assert.equal(((await answer.json()) as { detail: string }).detail, 'This process has 2 streams of this tenant already, which is the most; try again')
    await live.open('globex', undefined)
    await (opened[0] as PromiseFulfilledResult<ReadableStream>).value.cancel()
    await live.open('acme', undefined)
    assert.equal(live.listeners, 3)
  })
})

test('listeners that are equally far share one look', async () => {
  const log = memoryLog()
  const live = createLive({ log })
  await using(live, async () => {
    const readers = await Promise.all(Array.from({ length: 50 }, async () => read(await live.open('acme', undefined))))
    log.add('acme', event(1))
    log.looks = 0
    live.wake('acme')
    await waitUntil(() => readers.every(({ got }) => got.length === 1))
    assert.ok(log.looks <= 3, `${log.looks} looks`)
  })
})

test('one listener looks for all that wait, however far each is; what it finds wakes them', async () => {
  const log = memoryLog()
  const clock = virtualClock()
  const live = createLive({ log, clock, pollMs: 1_000 })
  await using(live, async () => {
    const readers: ReturnType<typeof read>[] = []
    for (let n = 1; n <= 50; n++) {
      log.add('acme', event(n))
      readers.push(read(await live.open('acme', undefined)))
    }
    log.add('globex', event(1))
    const other = read(await live.open('globex', undefined))
    await clock.advance(60_000)
    const seen = readers.map(({ got }) => got.length)
    log.looks = 0
    await clock.advance(10_000)
    assert.equal(log.looks, 20, 'ten of each tenant')
    log.add('acme', event(51))
    await clock.advance(1_000)
    assert.deepEqual(
      readers.map(({ got }, n) => got.length - seen[n]!),
      readers.map(() => 1),
    )
    assert.deepEqual(other.got, [])
  })
})

test('what is told of before it shows is looked for soon again, less and less often', async () => {
  const log = memoryLog()
  const clock = virtualClock()
  const live = createLive({ log, clock, pollMs: 1_000 })
  await using(live, async () => {
    const { got } = read(await live.open('acme', undefined))
    await clock.advance(60_000)
    live.wake('acme')
    await clock.advance(9)
    log.looks = 0
    await clock.advance(21)
    assert.equal(log.looks, 2, 'after 10 and 30 ms')
    log.add('acme', event(1))
    await clock.advance(40)
    assert.deepEqual(got, ['event-1'])
  })
})

test('who begins while the log cannot be read is refused, and who comes back goes on once it can', async () => {
  const log = memoryLog()
  const broken = Promise.reject(Object.assign(new Error('no database'), { code: 'ECONNREFUSED' }))
  broken.catch(() => {})
  const clock = virtualClock()
  let away = true
  const live = createLive({
    log: { position: (...given) => (away ? broken : log.position(...given)), after: (...given) => (away ? broken : log.after(...given)) },
    logger: { ...quiet, error: () => assert.fail('an outage is told elsewhere') },
    clock,
  })
  await using(live, async () => {
    log.add('acme', event(1), event(2))
    await assert.rejects(live.open('acme', undefined), { message: 'no database' })
    assert.equal(live.listeners, 0)
    const back = await Promise.all(Array.from({ length: 3 }, async () => read(await live.open('acme', 'event-1'))))
    for (const n of [2, 3]) {
      if (n === 3) log.add('acme', event(3))
      away = true
      await clock.advance(60_000)
      away = false
      await clock.advance(1_000)
      for (const { got } of back) assert.deepEqual(got, ['event-2', 'event-3'].slice(0, n - 1))
    }
  })
})

test('a log that cannot be read for another reason is told once until it can be again', async () => {
  const log = memoryLog()
  const clock = virtualClock()
  const told: object[] = []
  let fault: Error | undefined
  const live = createLive({
    log: { position: log.position, after: (...given) => (fault ? Promise.reject(fault) : log.after(...given)) },
    logger: { ...quiet, error: (fields) => void told.push(fields) },
    clock,
  })
  await using(live, async () => {
    const readers = await Promise.all(Array.from({ length: 3 }, async () => read(await live.open('acme', undefined))))
    for (let round = 1; round <= 2; round++) {
      const err = (fault = new Error('no such table'))
      live.wake('acme')
      await clock.advance(60_000)
      assert.deepEqual(told.splice(0), [{ err, tenant: 'acme' }])
      fault = undefined
      log.add('acme', event(round))
      await clock.advance(1_000)
      assert.ok(readers.every(({ got }) => got.length === round))
    }
  })
})

for (const stored of [0, 1_234])
  test(`a reader who leaves while the log is read ends the reading, be there ${stored} events`, async () => {
    const log = memoryLog()
    log.add('acme', ...Array.from({ length: stored }, (_, n) => event(n)))
    const gate = Promise.withResolvers<void>()
    log.wait = gate.promise
    const clock = virtualClock()
    const live = createLive({ log, clock })
    await using(live, async () => {
      const reader = read(await live.open('acme', 'event-0'))
      await waitUntil(() => log.looks === 1)
      await reader.cancel()
      assert.equal(live.listeners, 0)
      gate.resolve()
      await clock.advance(60_000)
      assert.equal(log.looks, 1)
    })
  })

test('nobody looks any more once the last listener has left', async () => {
  const log = memoryLog()
  const clock = virtualClock()
  const live = createLive({ log, clock })
  await using(live, async () => {
    const readers = await Promise.all([1, 2].map(async () => read(await live.open('acme', undefined))))
    for (const [n, { cancel }] of readers.entries()) {
      log.looks = 0
      await clock.advance(10_000)
      assert.ok(log.looks > 0, `${readers.length - n} are left`)
      await cancel()
    }
    log.looks = 0
    await clock.advance(60_000)
    assert.equal(log.looks, 0)
  })
})

test('streams end at the close, and those opened afterwards at once', async () => {
  const live = createLive({ log: memoryLog() })
  const last = read(await live.open('acme', undefined))
  live.close()
  await waitUntil(() => last.got.at(-1) === 'end')
  const late = read(await live.open('acme', undefined))
  await waitUntil(() => late.got.at(-1) === 'end')
  assert.equal(live.listeners, 0)
})

test('a quiet stream shows signs of life', async () => {
  const clock = virtualClock()
  const live = createLive({ log: memoryLog(), clock })
  await using(live, async () => {
    const { text } = read(await live.open('acme', undefined))
    await clock.advance(14_999)
    assert.equal(text(), 'retry: 1000\nid: 0\n\n')
    await clock.advance(1)
    assert.equal(text(), 'retry: 1000\nid: 0\n\n: still here\n\n')
  })
})

test('signs of life do not pile up for who does not read', async () => {
  const clock = virtualClock()
  const live = createLive({ log: memoryLog(), clock })
  await using(live, async () => {
    const reader = (await live.open('acme', undefined)).getReader()
    await clock.advance(0)
    const next = async (): Promise<string> => Buffer.from((await reader.read()).value!).toString()
    assert.match(await next(), /^retry/)
    await clock.advance(600_000)
    assert.equal(await next(), ': still here\n\n')
    let more = false
    void reader.read().then(() => (more = true))
    await clock.advance(0)
    assert.equal(more, false)
    await reader.cancel()
  })
})

test('who feeds the streams is told when somebody listens, and when nobody does any more', async () => {
  const live = createLive({ log: memoryLog() })
  const told: string[] = []
  const stopping = new AbortController()
  const feeding = (async () => {
    for (;;) {
      await live.audience(true, stopping.signal)
      if (stopping.signal.aborted) return told.push('stopped')
      told.push('present')
      await live.audience(false, stopping.signal)
      told.push('gone')
    }
  })()
  await using(live, async () => {
    const first = read(await live.open('acme', undefined))
    const second = read(await live.open('acme', undefined))
    await waitUntil(() => told.length > 0)
    await first.cancel()
    await setImmediate()
    assert.deepEqual(told, ['present'])
    await second.cancel()
    await waitUntil(() => told.length > 1)
    assert.deepEqual(told, ['present', 'gone'])
    stopping.abort()
    await feeding
    assert.deepEqual(told, ['present', 'gone', 'stopped'])
  })
})
