import assert from 'node:assert/strict'
import { thrownText } from '#internal/thrown'
import type { Mended } from '../dead-letters.ts'
import type { DeadLetter } from '../letter.ts'
import type { Message } from '../message.ts'
import { graveyard } from './graveyard.ts'
import { bytes, type Definition, once, range, textOf } from './stage.ts'

/** Sending dead letters again as other messages than they were. */
export const editCases: readonly Definition[] = [
  {
    name: 'a replay may mend the message; the headers of ctx.deadLetter travel with it',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      await broker.publish({ topic, key: 'k', value: bytes('bad'), headers: { a: '1' } })
      const seen: unknown[] = []
      await stage.listen(broker, topic, { group: 'g' }, (message, context) => {
        seen.push([textOf(message), { ...message.headers }, message.key])
        if (textOf(message) === 'bad') context.deadLetter('bad', { headers: { hint: 'mend it' } })
      })
      const dead = broker.deadLetters(topic, 'g')
      await stage.until(async () => (await dead.count()) === 1, 'the letter')
      await dead.replay({ filter: () => true, edit: (letter) => ({ value: bytes('good'), headers: { ...letter.headers, mended: 'yes' } }) })
      await stage.until(() => seen.length === 2, 'the mended message')
      assert.deepEqual(seen, [
        ['bad', { a: '1' }, 'k'],
        ['good', { a: '1', hint: 'mend it', mended: 'yes' }, 'k'],
      ])
      await stage.untilRead(broker, topic, 'g')
      assert.equal(await dead.count(), 0)
    },
  },
  {
    name: 'what edit cannot mean fails its letter alone, in a dry run too; a tombstone that gets a body is none any more',
    run: async (stage) => {
      const broker = await stage.broker({ maxMessageBytes: 1_000 })
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      let fixed = false
      let last: Pick<Message, 'key' | 'tombstone'> | undefined
      const { runs } = await stage.listen(broker, topic, { group: 'g', retry: once }, (message) => {
        if (!fixed) throw new Error('not yet')
        last = message
      })
      await stage.publish(broker, [
        ...range(5).map((i) => ({ topic, key: `k${i}`, value: bytes(String(i)) })),
        { topic, key: 'k5', value: bytes(''), tombstone: true },
      ])
      const dead = broker.deadLetters(topic, 'g')
      await stage.until(async () => (await dead.count()) === 6, 'six letters')
      fixed = true
      const fine = (await dead.list({ filter: ({ key }) => key === 'k5' })).letters[0]!.letterId
      const edits: Record<string, () => object> = {
        k0: () => ({ value: 'text' }),
        k1: () => ({ value: new Uint8Array(1_001) }),
        k2: () => ({ key: 7 }),
        k3: () => ({ headers: { 'cb-group': 'x' } }),
        k4: () => assert.fail('by itself'),
        k5: () => ({ value: bytes('back'), key: 'new' }),
      }
      const edit = async ({ key }: DeadLetter): Promise<Mended> => edits[key!]!()
      for (const dryRun of [true, false]) {
        const outcomes = await dead.replay({ filter: () => true, edit, dryRun })
        assert.equal(outcomes.length, 6)
        for (const { letterId, outcome, error } of outcomes)
          if (letterId === fine) assert.equal(outcome, dryRun ? 'would-replay' : 'replayed')
          else assert.ok(outcome === 'failed' && error instanceof Error, `${outcome} ${thrownText(error)}`)
      }
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual([runs.length, runs.at(-1)!.text, last?.key, last?.tombstone, await dead.count()], [7, 'back', 'new', false, 5])
    },
  },
  {
    name: 'edit gives an object with value, headers or key, a whole letter too; nothing changes nothing, anything else fails its letter',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = await graveyard(stage, broker, 1)
      const dead = broker.deadLetters(topic, 'g')
      const given: readonly [unknown, string][] = [
        ['mended', 'failed'],
        [bytes('mended'), 'failed'],
        [{ body: 1 }, 'failed'],
        [[], 'failed'],
        [null, 'failed'],
        [{}, 'would-replay'],
        [undefined, 'would-replay'],
        [{ value: undefined }, 'would-replay'],
        [{ headers: {} }, 'would-replay'],
      ]
      for (const [mended, expected] of given) {
        const [outcome] = await dead.replay({ filter: () => true, dryRun: true, edit: () => mended as Mended })
        assert.deepEqual([outcome!.outcome, outcome!.error instanceof TypeError], [expected, expected === 'failed'], String(mended))
      }
      await dead.replay({ filter: () => true, edit: (letter) => ({ ...letter, value: bytes('whole') }) })
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.until(() => done.length === 1, 'the replay')
      assert.deepEqual([done[0]!.text, done[0]!.key], ['whole', 'key-0'])
    },
  },
]
