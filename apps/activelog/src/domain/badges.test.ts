import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Activity, newActivity } from './activity.ts'
import { badgesOf } from './badges.ts'

const activity = (fields: object): Activity =>
  newActivity({ userId: 1, type: 'running', title: 'x', durationMinutes: 30, activityDate: '2026-01-01', ...fields }, { id: 'a', now: new Date('2026-01-01') })

test('each badge is earned at its bound and not before', () => {
  assert.deepEqual(badgesOf(activity({})), [])
  assert.deepEqual(badgesOf(activity({ distanceKm: 42.195 })), ['marathon'])
  assert.deepEqual(badgesOf(activity({ distanceKm: 42.194 })), [])
  assert.deepEqual(badgesOf(activity({ type: 'cycling', distanceKm: 100, durationMinutes: 240 })), ['century-ride', 'long-haul'])
  assert.deepEqual(badgesOf(activity({ type: 'swimming', distanceKm: 3 })), ['open-water'])
  assert.deepEqual(badgesOf(activity({ type: 'yoga', durationMinutes: 60 })), ['inner-peace'])
  assert.deepEqual(badgesOf(activity({ type: 'walking', distanceKm: 100, durationMinutes: 239 })), [])
})
