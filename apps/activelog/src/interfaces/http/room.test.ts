import assert from 'node:assert/strict'
import { test } from 'node:test'
import { virtualClock } from '@core-backend/events/testing'
import type { Position } from '../../application/ports.ts'
import { createRoom, type Room, type Waiting } from './room.ts'

interface Sitter extends Waiting {
  looks: number
  awake: boolean
}

/** Waits in the room; what a look does to it is said by `look`. */
function sit(room: Room, position: Position | undefined, look: (sitter: { position: Position | undefined }) => object | undefined = () => undefined): Sitter {
  const sitter = { position, looks: 0, awake: false, look: async () => (sitter.looks++, look(sitter)) }
  void room.idle(sitter, room.told).then(() => (sitter.awake = true))
  return sitter
}

const at = (txid: string, id = ''): Position => ({ txid, id })
const awake = (sitters: readonly Sitter[]): boolean[] => sitters.map((sitter) => sitter.awake)
const looks = (sitters: readonly Sitter[]): number[] => sitters.map((sitter) => sitter.looks)

test('who is furthest behind looks for all, by the number of its transaction and then by the id', async () => {
  const clock = virtualClock()
  const room = createRoom({ pollMs: 1_000, clock })
  const found: object[] = []
  const sitters = [at('10', 'a'), at('9', 'b'), at('9', 'a'), at('100', '')].map((position) => sit(room, position, () => found[0]))
  await clock.advance(10)
  assert.deepEqual(
    [looks(sitters), awake(sitters)],
    [
      [0, 0, 1, 0],
      [false, false, false, false],
    ],
  )
  found.push({})
  await clock.advance(20)
  assert.deepEqual(
    [looks(sitters), awake(sitters)],
    [
      [0, 0, 2, 0],
      [true, true, true, true],
    ],
  )
})

test('one that finds out where it is wakes the others, though it finds nothing new: what kept it from that kept them, too', async () => {
  const clock = virtualClock()
  const room = createRoom({ pollMs: 1_000, clock })
  const lost = sit(room, undefined, (sitter) => void (sitter.position = at('1')))
  const other = sit(room, undefined)
  await clock.advance(10)
  assert.deepEqual(
    [looks([lost, other]), awake([lost, other])],
    [
      [1, 0],
      [true, true],
    ],
  )
})

test('one whose place is never found out keeps no other from being woken, with a place or without', async () => {
  const clock = virtualClock()
  const room = createRoom({ pollMs: 1_000, clock })
  const found: object[] = []
  const lost = sit(room, undefined)
  const placed = sit(room, at('1'), () => found[0])
  await clock.advance(10)
  assert.deepEqual(looks([lost, placed]), [1, 1])
  found.push({})
  await clock.advance(20)
  assert.deepEqual(awake([lost, placed]), [true, true])

  const [still, late] = [sit(room, undefined), sit(room, undefined, (sitter) => void (sitter.position = at('1')))]
  await clock.advance(30)
  assert.deepEqual(awake([still, late]), [true, true], 'they take turns')
})

test('what was told since somebody began to look does not keep it waiting', async () => {
  const clock = virtualClock()
  const room = createRoom({ pollMs: 1_000, clock })
  const { told } = room
  room.tell()
  let awake = false
  void room.idle({ position: at('1'), look: async () => undefined }, told).then(() => (awake = true))
  await clock.advance(0)
  assert.equal(awake, true)
})

test('who leaves is looked for no more, and the last one ends the looking', async () => {
  const clock = virtualClock()
  const room = createRoom({ pollMs: 1_000, clock })
  const sitters = [sit(room, at('1')), sit(room, at('2'))]
  await clock.advance(10)
  assert.deepEqual(looks(sitters), [1, 0])
  room.leave(sitters[0]!)
  await clock.advance(20)
  assert.deepEqual(
    [looks(sitters), awake(sitters)],
    [
      [1, 1],
      [true, false],
    ],
  )
  room.leave(sitters[1]!)
  await clock.advance(60_000)
  assert.deepEqual([looks(sitters), awake(sitters), clock.sleepers], [[1, 1], [true, true], 0])
})
