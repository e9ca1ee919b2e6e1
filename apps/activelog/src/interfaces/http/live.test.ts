import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { newActivity } from '../../domain/activity.ts'
import { createLive, type Live, type LiveEvent } from './live.ts'

const activity = newActivity({ userId: 1, type: 'yoga', title: 'x', durationMinutes: 1, activityDate: '2026-01-01' }, { id: 'a', now: new Date('2026-01-01') })

/** An event whose id was made that many ms after the epoch. */
const event = (ms: number, n = 0): LiveEvent => {
  const time = ms.toString(16).padStart(12, '0')
  return { id: `${time.slice(0, 8)}-${time.slice(8)}-7000-8000-${n.toString(16).padStart(12, '0')}`, name: 'activity.created', activity }
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
      text += Buffer.from(value).toString()
      got.push(
        ...Array.from(
          Buffer.from(value)
            .toString()
            .matchAll(/^id: (.*)$/gm),
          ([, id]) => id!,
        ),
      )
    }
  })()
  return { got, text: () => text, cancel: () => reader.cancel() }
}

const empty = async (): Promise<LiveEvent[]> => []
const using = async (live: Live, fn: () => Promise<void>): Promise<void> => fn().finally(live.close)

test("each listener gets its tenant's events from now on, as server-sent events", async () => {
  const live = createLive({ recorded: empty })
  await using(live, async () => {
    live.publish('acme', event(1))
    const acme = read(live.open('acme', undefined))
    const globex = read(live.open('globex', undefined))
    live.publish('acme', event(2))
    live.publish('globex', event(3))
    await waitUntil(() => acme.got.length === 1 && globex.got.length === 1)
    assert.deepEqual([acme.got, globex.got], [[event(2).id], [event(3).id]])
    assert.equal(acme.text(), `retry: 1000\n\nid: ${event(2).id}\nevent: activity.created\ndata: ${JSON.stringify(activity)}\n\n`)
    assert.equal(live.listeners, 2)
  })
})

test('who comes back gets what was recorded, what was heard but not yet recorded, and what came meanwhile, each once', async () => {
  const stored = [event(100_000), event(100_000, 1), event(100_001), event(100_002)]
  let asked: unknown[] = []
  let release = (): void => {}
  const live = createLive({
    recorded: async (...args) => {
      asked = args
      await new Promise<void>((resolve) => (release = resolve))
      return stored
    },
  })
  await using(live, async () => {
    for (const one of [event(50_000), event(100_002), event(100_003)]) live.publish('acme', one)
    live.publish('globex', event(100_004))
    const { got } = read(live.open('acme', event(100_000).id))
    await waitUntil(() => asked.length > 0)
    live.publish('acme', event(100_003))
    live.publish('acme', event(100_005))
    release()
    await waitUntil(() => got.length === 5)
    live.publish('acme', event(100_006))
    await waitUntil(() => got.length === 6)
    assert.deepEqual(
      got,
      [event(100_000, 1), event(100_001), event(100_002), event(100_003), event(100_005), event(100_006)].map(({ id }) => id),
    )
    // Ten seconds before the last one seen: transactions end in another order than they began.
    assert.deepEqual(asked, ['acme', event(90_000).id, 500])
  })
})

test('what was missed is read page by page', async () => {
  const stored = Array.from({ length: 1_234 }, (_, n) => event(20_000 + n))
  const live = createLive({ recorded: async (_, from, limit) => stored.filter(({ id }) => id >= from).slice(0, limit) })
  await using(live, async () => {
    const { got } = read(live.open('acme', event(15_000).id))
    await waitUntil(() => got.length === stored.length)
    assert.deepEqual(
      got,
      stored.map(({ id }) => id),
    )
  })
})

test('a reader who leaves while the missed events are read ends the reading', async () => {
  const stored = Array.from({ length: 1_234 }, (_, n) => event(20_000 + n))
  const gate = Promise.withResolvers<void>()
  let pages = 0
  const live = createLive({
    async recorded(_, from, limit) {
      pages++
      await gate.promise
      return stored.filter(({ id }) => id >= from).slice(0, limit)
    },
  })
  await using(live, async () => {
    await read(live.open('acme', event(15_000).id)).cancel()
    gate.resolve()
    await setImmediate() // every turn of the reading would be over
    assert.equal(pages, 1)
  })
})

test('a stream ends when its history cannot be read, when its reader is too slow, when the reader leaves, and at the close', async () => {
  const live = createLive({ recorded: () => Promise.reject(new Error('no database')) })
  await using(live, async () => {
    const broken = read(live.open('acme', event(1).id))
    await waitUntil(() => broken.got.at(-1) === 'end')
    const slow = live.open('acme', undefined)
    for (let n = 0; n < 2_000; n++) live.publish('acme', event(n))
    assert.equal(live.listeners, 0)
    await slow.cancel()
    const leaving = read(live.open('acme', undefined))
    assert.equal(live.listeners, 1)
    await leaving.cancel()
    assert.equal(live.listeners, 0)
    const last = read(live.open('acme', undefined))
    live.close()
    await waitUntil(() => last.got.at(-1) === 'end')
    const late = read(live.open('acme', undefined))
    await waitUntil(() => late.got.at(-1) === 'end')
  })
})

test('a quiet stream shows signs of life', async () => {
  const live = createLive({ recorded: empty, heartbeatMs: 5 })
  await using(live, async () => {
    const { text } = read(live.open('acme', undefined))
    await waitUntil(() => text().includes(': still here\n\n'))
  })
})
