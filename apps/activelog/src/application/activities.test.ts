import assert from 'node:assert/strict'
import { test } from 'node:test'
import { expectPublished, type SpyPublisher, spyPublisher } from '@core-backend/events/testing'
import type { Activity } from '../domain/activity.ts'
import { ActivityCreated, ActivityDeleted, ActivityUpdated } from '../domain/events.ts'
import { activityUseCases, type ActivityUseCases } from './activities.ts'
import type { ActivityStore } from './ports.ts'

const draft = { userId: 7, type: 'running', title: 'Round the lake', durationMinutes: 42, activityDate: '2026-03-01' }
const caller = { tenantId: 'acme', correlationId: 'r1', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' }

interface World extends ActivityUseCases {
  spy: SpyPublisher
  stored: () => readonly Activity[]
  commits: () => number
  failNext: (error: Error) => void
  /** As if another process were in the middle of a request with this key. */
  busy: (key: string) => void
}

/** The use cases on a store in memory that undoes what a failed transaction did. */
function world(): World {
  let stored = new Map<string, Activity>()
  let keys = new Map<string, { fingerprint: string; activity: Activity }>()
  const running = new Set<string>()
  const spy = spyPublisher()
  let failure: Error | undefined
  let commits = 0
  let ids = 0
  const store: ActivityStore = {
    async transaction(tenant, fn) {
      assert.equal(tenant, 'acme')
      const before = [new Map(stored), new Map(keys)] as const
      const published = spyPublisher()
      try {
        const result = await fn({
          events: published,
          async add(activity, request) {
            if (request && (keys.has(request.key) || running.has(request.key))) return false
            if (request) keys.set(request.key, { fingerprint: request.fingerprint, activity })
            stored.set(activity.id, activity)
            return true
          },
          lock: async (id) => stored.get(id),
          replace: async (activity) => void stored.set(activity.id, activity),
          remove: async ({ id }) => void stored.delete(id),
        })
        if (failure) throw failure
        await spy.publishBatch(published.events)
        return result
      } catch (error) {
        ;[stored, keys] = before
        throw error
      }
    },
    find: async (_, id) => stored.get(id),
    list: async () => [...stored.values()],
    answered: async (_, key) => keys.get(key),
  }
  const useCases = activityUseCases({ store, newId: () => `a${++ids}`, now: () => new Date('2026-03-01T12:00:00Z'), onCommit: () => commits++ })
  return {
    ...useCases,
    spy,
    stored: () => [...stored.values()],
    commits: () => commits,
    failNext: (error) => (failure = error),
    busy: (key) => running.add(key),
  }
}

test('a post stores the activity and says so, once, with the tenant and the trace of its request', async () => {
  const { post, spy, stored, commits } = world()
  const { activity, repeated } = await post(caller, draft)
  assert.equal(repeated, false)
  assert.deepEqual(stored(), [activity])
  assert.equal(spy.events.length, 1)
  const event = expectPublished(spy, ActivityCreated, { userId: 7, title: 'Round the lake', version: 1 })
  assert.deepEqual([event.key, event.aggregateId, event.tenantId, event.correlationId, event.traceparent], ['a1', 'a1', 'acme', 'r1', caller.traceparent])
  assert.equal(commits(), 1)
})

test('what is invalid stores nothing and says nothing', async () => {
  const { post, spy, stored, commits } = world()
  await assert.rejects(post(caller, { ...draft, durationMinutes: -1 }), { code: 'ERR_ACTIVELOG_INVALID' })
  assert.deepEqual([spy.events.length, stored().length, commits()], [0, 0, 0])
})

test('when the transaction fails, nothing was said', async () => {
  const { post, spy, stored, commits, failNext } = world()
  failNext(new Error('disk full'))
  await assert.rejects(post(caller, draft, 'k'), /disk full/)
  assert.deepEqual([spy.events.length, stored().length, commits()], [0, 0, 0])
})

test('a request repeated under its key gets its first answer, however its fields are ordered, and happens once', async () => {
  const { post, patch, spy, stored } = world()
  const first = await post(caller, draft, 'k')
  await patch(caller, 'a1', { title: 'Changed since' })
  const again = await post(caller, Object.fromEntries(Object.entries(draft).reverse()), 'k')
  assert.deepEqual(again, { activity: first.activity, repeated: true })
  assert.equal(stored().length, 1)
  assert.equal(spy.of(ActivityCreated).length, 1)
})

test('a key that was used for another body is refused, one that is being used is busy', async () => {
  const { post, busy } = world()
  await post(caller, draft, 'k')
  await assert.rejects(post(caller, { ...draft, durationMinutes: 43 }, 'k'), { code: 'ERR_ACTIVELOG_KEY_REUSED', retryable: false })
  busy('k2')
  await assert.rejects(post(caller, draft, 'k2'), { code: 'ERR_ACTIVELOG_KEY_BUSY', retryable: true })
})

test('a change and a deletion say so with the next version', async () => {
  const { post, patch, delete: remove, get, list, spy } = world()
  await post(caller, draft)
  const changed = await patch(caller, 'a1', { durationMinutes: 50 })
  assert.equal(changed.version, 2)
  assert.deepEqual(await get(caller, 'a1'), changed)
  assert.deepEqual(await list(caller, { limit: 10 }), [changed])
  expectPublished(spy, ActivityUpdated, { durationMinutes: 50, version: 2 })
  await remove(caller, 'a1')
  expectPublished(spy, ActivityDeleted, { durationMinutes: 50, version: 3 })
  for (const use of [get(caller, 'a1'), patch(caller, 'a1', { title: 'x' }), remove(caller, 'a1')])
    await assert.rejects(use, { code: 'ERR_ACTIVELOG_NOT_FOUND' })
  assert.equal(spy.events.length, 3)
})
