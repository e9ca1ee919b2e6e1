import assert from 'node:assert/strict'
import { test } from 'node:test'
import { changedActivity, dayOf, deletedActivity, InvalidActivityError, newActivity } from './activity.ts'

const now = new Date('2026-03-01T12:00:00Z')
const draft = { userId: 7, type: 'running', title: 'Round the lake', durationMinutes: 42, activityDate: '2026-03-01' }
const made = newActivity({ ...draft, distanceKm: 8.125, notes: 'windy' }, { id: 'a1', now })

/** The faults of what is refused. */
function faultsOf(fn: () => unknown): Record<string, string> {
  try {
    fn()
  } catch (error) {
    assert.ok(error instanceof InvalidActivityError)
    return Object.fromEntries(error.faults.map(({ field, detail }) => [field, detail]))
  }
  throw new assert.AssertionError({ message: 'Nothing was thrown' })
}
const refused = (change: object): Record<string, string> => faultsOf(() => newActivity({ ...draft, ...change }, { id: 'a1', now }))

test('a new activity has version 1 and only the fields that were given', () => {
  assert.deepEqual(made, {
    ...draft,
    id: 'a1',
    distanceKm: 8.125,
    notes: 'windy',
    createdAt: '2026-03-01T12:00:00.000Z',
    updatedAt: '2026-03-01T12:00:00.000Z',
    version: 1,
  })
  assert.deepEqual(Object.keys(newActivity(draft, { id: 'a1', now })).includes('notes'), false)
})

test('each field is held to its bounds, and the fault names it', () => {
  for (const [field, bad] of Object.entries({
    userId: [0, -1, 1.5, '7', 2 ** 53, null, undefined],
    type: ['flying', '', 3, undefined],
    title: ['', '   ', 'x'.repeat(201), '🏃'.repeat(201), 'nul \0', '\ud800', 7, undefined],
    description: ['x'.repeat(2_001), 3, null],
    durationMinutes: [0, -5, 1_441, 30.5, '30', undefined],
    distanceKm: [-0.001, 100_001, 1.2345, '8', Infinity],
    caloriesBurned: [-1, 1.5, 100_001],
    notes: ['x'.repeat(10_001), []],
    activityDate: ['2026-02-29', '2026-13-01', '26-01-01', '2026-1-1', '1899-12-31', '2026-03-03', '', 20260301, undefined],
  }))
    for (const value of bad) assert.deepEqual(Object.keys(refused({ [field]: value })), [field], `${field} = ${String(value)}`)
  for (const good of [
    { title: '🏃'.repeat(200) },
    { durationMinutes: 1_440 },
    { distanceKm: 0 },
    { activityDate: '2026-03-02' },
    { activityDate: '2024-02-29' },
  ])
    assert.equal(newActivity({ ...draft, ...good }, { id: 'a1', now }).version, 1)
})

test('all faults are told at once; what is missing is said to be required', () => {
  const required = Object.fromEntries(['userId', 'type', 'title', 'durationMinutes', 'activityDate'].map((field) => [field, 'is required']))
  assert.deepEqual(
    faultsOf(() => newActivity({}, { id: 'a1', now })),
    required,
  )
  assert.equal(refused({ type: null })['type']?.startsWith('must be one of running, '), true)
  assert.equal(refused({ userId: '7' })['userId'], 'must be an integer from 1 to 9007199254740991')
  assert.equal(refused({ userId: 2 ** 53 })['userId'], 'must be an integer from 1 to 9007199254740991')
})

test('a fault is told once', () => {
  const twice = (change: object): unknown[] => {
    try {
      newActivity({ ...draft, ...change }, { id: 'a1', now })
    } catch (error) {
      return (error as InvalidActivityError).faults.map(({ detail }) => detail)
    }
    return []
  }
  assert.deepEqual(twice({ durationMinutes: 1e308 }), ['must be an integer from 1 to 1440'])
  assert.deepEqual(twice({ userId: -1.5 }), ['must be an integer from 1 to 9007199254740991'])
  assert.deepEqual(twice({ activityDate: '0000-00-00' }), ['must be a date that exists, as YYYY-MM-DD'])
  assert.deepEqual(twice({ distanceKm: -1.2345 }), ['must be a number from 0 to 100000', 'must have at most three decimals'])
})

test('the fault of a text says what it may not have', () => {
  assert.deepEqual(refused({ title: '\ud800', notes: '\ud800' }), {
    title: 'must be 1 to 200 characters, not blank, without NUL or lone surrogates',
    notes: 'must be 0 to 10000 characters, without NUL or lone surrogates',
  })
})

test('unknown fields are refused by name, those that the service sets too', () => {
  assert.deepEqual(refused({ id: 'mine', durationMinute: 5 }), {
    id: 'is not a field that can be written',
    durationMinute: 'is not a field that can be written',
  })
})

test('what is no object is refused as a whole', () => {
  for (const input of [null, 3, 'x', [draft], undefined])
    assert.deepEqual(
      faultsOf(() => newActivity(input, { id: 'a1', now })),
      { '': 'must be a JSON object' },
    )
})

test('a change is the next version; null takes an optional field away', () => {
  const later = new Date('2026-03-02T00:00:00Z')
  const changed = changedActivity(made, { durationMinutes: 50, notes: null }, later)
  const { notes: _, ...rest } = made
  assert.deepEqual(changed, { ...rest, durationMinutes: 50, updatedAt: '2026-03-02T00:00:00.000Z', version: 2 })
  assert.equal(deletedActivity(changed, later).version, 3)
})

test('a change must change something that can be changed', () => {
  assert.deepEqual(Object.keys(faultsOf(() => changedActivity(made, {}, now))), [''])
  assert.deepEqual(Object.keys(faultsOf(() => changedActivity(made, { userId: 8 }, now))), ['userId'])
  assert.deepEqual(Object.keys(faultsOf(() => changedActivity(made, { title: null }, now))), ['title'])
  assert.deepEqual(Object.keys(faultsOf(() => changedActivity(made, { activityDate: '2026-03-03' }, now))), ['activityDate'])
})

test('days are UTC', () => {
  assert.equal(dayOf(new Date('2026-02-28T23:59:59.999Z'), 1), '2026-03-01')
  assert.equal(dayOf(new Date('2026-03-01T00:00:00Z'), -1), '2026-02-28')
})
