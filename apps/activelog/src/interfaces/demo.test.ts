import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import type { Clock } from '@core-backend/internal/clock'
import type { Progress } from '../infrastructure/progress.ts'
import { playDemo } from './demo.ts'

/** Time passes as fast as it is waited for. */
function hurried(): Clock {
  let time = 0
  return {
    now: () => time,
    monotonic: () => time,
    async sleep(ms, { signal } = {}) {
      await setImmediate()
      signal?.throwIfAborted()
      time += ms
    },
  }
}

const none: Progress = { posted: 0, handled: 0, deadLettered: 0, unpublished: 0, pending: 0 }
const stopped = AbortSignal.abort()

async function play(progress: () => Promise<Progress>, { url, signal = stopped }: { url?: string; signal?: AbortSignal } = {}): Promise<string[]> {
  const lines: string[] = []
  await playDemo({ url, progress }, ['acme'], signal, { clock: hurried(), print: (line) => void lines.push(line) })
  return lines.filter((line) => !line.includes('published'))
}

test('what stays of before is waited for a while, which is told, and then left out of the sum', async () => {
  const signal = new AbortController()
  const counts = [...Array<number>(200).fill(3), 4, 5]
  const lines = await play(
    async () => {
      const pending = counts.shift() ?? 3
      if (pending > 3) signal.abort()
      return { ...none, posted: pending - 3, pending, unpublished: 2, deadLettered: 7 }
    },
    { signal: signal.signal },
  )
  assert.deepEqual(lines, ['Waits up to 15 s for 3 events of before', 'posted 0 = handled 0 + dead-lettered 0 + pending 0'])
})

test('its line never has more handled than published, nor more published than posted', async (t) => {
  const ended = new AbortController()
  const server = createServer((_, response) => void response.writeHead(503).end()).listen(0, '127.0.0.1')
  t.after(() => server.close().closeAllConnections())
  await once(server, 'listening')
  const lines: string[] = []
  const counts = [none, { ...none, posted: 5, handled: 4, unpublished: 3 }, { ...none, posted: 5, handled: 5, unpublished: -1 }]
  const progress = async (): Promise<Progress> => {
    if (counts.length === 1) ended.abort()
    return counts.shift() ?? { ...none, posted: 5, handled: 5 }
  }
  const { port } = server.address() as { port: number }
  await playDemo({ url: `http://127.0.0.1:${port}`, progress }, ['acme'], ended.signal, { clock: hurried(), print: (line) => void lines.push(line) })
  assert.deepEqual(lines.slice(0, 2), ['posted 5  published 4  handled 4  dead-lettered 0', 'posted 5  published 5  handled 5  dead-lettered 0'])
})

test('the sum waits for the last event, and says so when it does not come', async () => {
  const come = [0, 2, 2, 1].map((pending): Progress => ({ ...none, posted: pending && 2, handled: pending && 2 - pending, pending }))
  assert.deepEqual(await play(async () => come.shift() ?? { ...none, posted: 2, handled: 2 }), ['posted 2 = handled 2 + dead-lettered 0 + pending 0'])
  let asked = 0
  assert.deepEqual(await play(async () => (asked++ === 0 ? none : { ...none, posted: 2, handled: 1 })), [
    'posted 2 is not handled 1 + dead-lettered 0 + pending 0',
  ])
})

test('what is of before and is handled, or given up, while it plays does not spoil the sum; what is lost does', async () => {
  const after = async (left: number, sum: Partial<Progress>): Promise<string | undefined> => {
    const signal = new AbortController()
    let asked = 0
    const lines = await play(
      async () => {
        if (asked === 100) signal.abort()
        return asked++ < 100 ? { ...none, deadLettered: 1, pending: left } : { ...none, ...sum }
      },
      { signal: signal.signal },
    )
    return lines.at(-1)
  }
  const done = { posted: 10, handled: 10, deadLettered: 1 }
  assert.equal(await after(5, done), 'posted 10 = handled 10 + dead-lettered 0 + pending 0')
  assert.equal(await after(5, { ...done, pending: 3 }), 'posted 10 = handled 10 + dead-lettered 0 + pending 0')
  assert.equal(await after(5, { ...done, deadLettered: 3 }), 'posted 10 = handled 10 + dead-lettered 0 + pending 0')
  assert.equal(await after(5, { ...done, handled: 7, deadLettered: 2, pending: 4 }), 'posted 10 = handled 7 + dead-lettered 1 + pending 2')
  assert.equal(await after(5, { ...done, handled: 9 }), 'posted 10 is not handled 9 + dead-lettered 0 + pending 0')
  assert.equal(await after(5, { ...done, handled: 11, pending: 5 }), 'posted 10 is not handled 11 + dead-lettered 0 + pending 0')
  assert.equal(await after(5, { ...done, handled: 11 }), 'posted 10 is not handled 11 + dead-lettered 0 + pending 0')
  assert.equal(await after(0, { ...done, handled: 9 }), 'posted 10 is not handled 9 + dead-lettered 0 + pending 0')
})

test('a count that fails is repeated for a while, and then the demo fails', async () => {
  let asked = 0
  const away = (): Promise<never> => Promise.reject(new Error('no database'))
  assert.deepEqual(await play(() => (asked++ % 3 === 0 ? Promise.resolve(none) : away())), ['posted 0 = handled 0 + dead-lettered 0 + pending 0'])
  await assert.rejects(play(away, { signal: new AbortController().signal }), { message: 'no database' })
})

test('who stops it while the first count fails waits no longer', async () => {
  const stopping = new AbortController()
  let asked = 0
  const away = (): Promise<never> => {
    if (++asked === 2) stopping.abort()
    return Promise.reject(new Error('no database'))
  }
  assert.deepEqual(await play(away, { signal: stopping.signal }), [])
  assert.equal(asked, 2)
})

test('it ends also while requests are refused', async (t) => {
  const stopping = new AbortController()
  let asked = 0
  const server = createServer((_, response) => {
    if (++asked === 3) stopping.abort()
    response.writeHead(503).end()
  }).listen(0, '127.0.0.1')
  t.after(() => server.close().closeAllConnections())
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  await play(async () => none, { url: `http://127.0.0.1:${port}`, signal: stopping.signal })
  assert.equal(asked, 3)
})
