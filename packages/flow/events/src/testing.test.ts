import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { defineEvent } from './event.ts'
import { createEventProcessor } from './processor.ts'
import { expectPublished, given, spyPublisher, virtualClock } from './testing.ts'

const Run = defineEvent('run', {
  version: 1,
  topic: 'runs',
  schema: z.object({ user: z.string(), km: z.number(), place: z.object({ city: z.string(), at: z.coerce.date() }).optional() }),
  aggregateId: ({ user }) => user,
})
const Award = defineEvent('award', { version: 1, schema: z.object({ user: z.string(), total: z.number() }), topic: 'awards', aggregateId: ({ user }) => user })
const at = new Date('2026-01-02T03:04:05Z')

test('the spy keeps what is published, by type, until cleared', async () => {
  const spy = spyPublisher()
  await spy.publish(Run({ user: 'u', km: 5 }))
  await spy.publishBatch([Award({ user: 'u', total: 5 }), Run({ user: 'v', km: 1 })])
  assert.deepEqual(
    spy.events.map(({ name }) => name),
    ['run', 'award', 'run'],
  )
  assert.deepEqual(
    spy.of(Run).map(({ data }) => data.km),
    [5, 1],
  )
  spy.clear()
  assert.deepEqual(spy.events, [])
  await spy.close()
  await assert.rejects(spy.publish(Run({ user: 'u', km: 5 })), { code: 'ERR_EVENTS_CLOSED' })
})

test('expectPublished finds by some of the fields at any depth, and else shows what was published', async () => {
  const spy = spyPublisher()
  await spy.publish(Run({ user: 'u', km: 5, place: { city: 'Bonn', at } }))
  assert.equal(expectPublished(spy, Run, { place: { city: 'Bonn' } }).data.km, 5)
  assert.equal(expectPublished(spy, Run, { place: { at } }).data.user, 'u')
  assert.equal(expectPublished(spy, Run).data.user, 'u')
  assert.throws(() => expectPublished(spy, Run, { place: { city: 'Köln' } }), /AssertionError.*Expected run with .*Köln.*published.*Bonn/s)
  assert.throws(() => expectPublished(spy, Award), /AssertionError.*Expected award; published.*'run'/s)
  assert.throws(() => expectPublished(spy, Run, { place: { at: new Date(0) } }), /AssertionError/)
})

function awards(): Parameters<typeof given>[0] {
  const publisher = spyPublisher()
  const totals = new Map<string, number>()
  const processor = createEventProcessor({ retry: { maxAttempts: 1 } }).on(
    Run,
    async ({ data: { user, km } }, ctx) => {
      if (km < 0) throw Object.assign(new Error('ran backwards'), { code: 'ERR_BACKWARDS' })
      totals.set(user, (totals.get(user) ?? 0) + km)
      if (totals.get(user)! >= 10) await publisher.publish(Award({ user, total: totals.get(user)! }, ctx.correlation))
    },
    { name: 'awards' },
  )
  return { processor, publisher }
}

test('given, when, then: published, nothing, fails', async () => {
  const event = Run({ user: 'u', km: 6 })
  const award = await given(awards(), [Run({ user: 'u', km: 5 })])
    .when(event)
    .thenPublished(Award, { total: 11 })
  assert.equal(award.causationId, event.id)
  await given(awards()).when(event).thenNothing()
  await given(awards(), [Run({ user: 'u', km: 50 })])
    .when(Run({ user: 'v', km: 1 }))
    .thenNothing()
  await given(awards())
    .when(Run({ user: 'u', km: -1 }))
    .thenFails('ERR_BACKWARDS')
  await given(awards())
    .when(Run({ user: 'u', km: -1 }))
    .thenFails(/backwards/)
})

test('given, when, then: each fails when it should', async () => {
  await assert.rejects(
    given(awards())
      .when(Run({ user: 'u', km: 1 }))
      .thenPublished(Award),
    /Expected award/,
  )
  await assert.rejects(
    given(awards())
      .when(Run({ user: 'u', km: 10 }))
      .thenNothing(),
    /Expected nothing; published: award/,
  )
  await assert.rejects(
    given(awards())
      .when(Run({ user: 'u', km: 1 }))
      .thenFails('ERR_BACKWARDS'),
    /but it was handled/,
  )
  await assert.rejects(
    given(awards())
      .when(Run({ user: 'u', km: -1 }))
      .thenFails('ERR_OTHER'),
    /but ran backwards/,
  )
  await assert.rejects(
    given(awards())
      .when(Run({ user: 'u', km: -1 }))
      .thenNothing(),
    { code: 'ERR_EVENTS_HANDLING' },
  )
  await assert.rejects(
    given(awards(), [Run({ user: 'u', km: -1 })])
      .when(Run({ user: 'u', km: 1 }))
      .thenNothing(),
    { code: 'ERR_EVENTS_HANDLING' },
  )
})

test('given, when, then find a schema that does not take its own output', async () => {
  const Dated = defineEvent('dated', { version: 1, schema: z.object({ at: z.date() }), topic: 't' })
  const processor = createEventProcessor().on(Dated, () => {}, { name: 'h' })
  await given({ processor, publisher: spyPublisher() })
    .when(Dated({ at }, { aggregateId: 'a' }))
    .thenFails('ERR_EVENTS_INVALID')
})

test('the virtual clock wakes in order, at the time asked for', async () => {
  const clock = virtualClock(1_000)
  const log: string[] = []
  const sleeper = async (name: string, ms: number): Promise<void> => {
    await clock.sleep(ms)
    log.push(`${name} ${clock.now()}`)
    if (name === 'a') await sleeper('a2', 5)
  }
  const all = [sleeper('c', 30), sleeper('a', 10), sleeper('b', 15)]
  await clock.advance(20)
  assert.deepEqual(log, ['a 1010', 'b 1015', 'a2 1015'])
  assert.deepEqual([clock.monotonic(), clock.sleepers], [20, 1])
  await clock.advance(10)
  await Promise.all(all)
  const { signal } = AbortSignal.abort(new Error('no')) && { signal: AbortSignal.abort(new Error('no')) }
  await assert.rejects(clock.sleep(1, { signal }), /no/)
})
