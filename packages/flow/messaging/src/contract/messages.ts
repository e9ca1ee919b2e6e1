import assert from 'node:assert/strict'
import type { Broker } from '../broker.ts'
import type { Message, MessageInput } from '../message.ts'
import { partitionOf } from '../partition.ts'
import { needs } from './needs.ts'
import { bytes, code, type Definition, range, type Stage, textOf } from './stage.ts'

/** Publishes, and gives what a group gets, in the order in which it was published. */
async function roundTrip(stage: Stage, broker: Broker, inputs: readonly MessageInput[]): Promise<readonly Message[]> {
  for (const topic of new Set(inputs.map((input) => input.topic))) await broker.createTopic(topic, { groups: ['g'] })
  const ids = await stage.publish(broker, inputs)
  const got = new Map<string, Message>()
  const { subscription } = await stage.listen(
    broker,
    [...new Set(inputs.map(({ topic }) => topic))],
    { group: 'g' },
    (message) => void got.set(message.id, message),
  )
  await stage.until(() => ids.every((id) => got.has(id)), 'every message to come')
  await subscription.close()
  return ids.map((id) => got.get(id)!)
}

const goodValues = [
  '',
  'plain',
  'ü€😀',
  '"quoted" \\ / \'',
  '%s %d {} $1 ${x}',
  'tab\tinside',
  'a=b&c=d',
  '\u0001 \u001f',
  'x\u007f',
  '\u202Eright to left',
  '=?utf-8?q?x?=',
  'x'.repeat(4_000),
]
const badValues = ['a\nb', 'a\r\nb', 'a\rb', 'a\0b', '\uD800', 'a\uDC00b', ' a', 'a ', '\ta', 'a\u00A0']

/** What a message is, and that it stays so. */
export const messageCases: readonly Definition[] = [
  {
    name: 'body, key, headers, id and time come as they were published',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const value = Uint8Array.from(range(256))
      const inputs: MessageInput[] = [
        {
          topic,
          key: 'ключ/😀 "k"',
          value,
          headers: { 'content-type': 'application/x', event_type: 'ü', 'a.b-c_d': '1' },
          id: 'id with ü, "quotes" and \\',
          timestamp: 1_700_000_000_123,
        },
        { topic, value: bytes('no key, no headers') },
        { topic, key: '', value: bytes('the empty key is a key') },
      ]
      const [full, bare, empty] = await roundTrip(stage, broker, inputs)
      assert.deepEqual([...full!.value], range(256))
      assert.deepEqual({ ...full!.headers }, inputs[0]!.headers)
      assert.deepEqual([full!.id, full!.key, full!.topic, full!.timestamp], [inputs[0]!.id, inputs[0]!.key, topic, 1_700_000_000_123])
      assert.deepEqual([full!.attempt, full!.idStable, full!.tombstone], [1, true, false])
      assert.deepEqual([bare!.key, { ...bare!.headers }, empty!.key], [undefined, {}, ''])
      assert.match(bare!.id, /^[0-9a-f]{8}-[0-9a-f]{4}-7/)
    },
  },
  {
    name: 'strange header values come equal or are refused, never mangled',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const got = await roundTrip(
        stage,
        broker,
        goodValues.map((x) => ({ topic, value: bytes(''), headers: { x } })),
      )
      assert.deepEqual(
        got.map(({ headers }) => headers['x']),
        goodValues,
      )
      for (const x of badValues) await assert.rejects(broker.publish({ topic, value: bytes(''), headers: { x } }), RangeError, JSON.stringify(x))
      assert.equal((await broker.lag(topic, 'g')).messages, 0, 'what was refused is not stored')
    },
  },
  {
    name: 'strange keys and ids come equal or are refused, never mangled',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const strange = [...goodValues.slice(1), ...badValues]
      const sent: string[] = []
      for (const [i, text] of strange.entries())
        for (const input of [
          { key: text, id: `key ${i}` },
          { key: 'k', id: `${text} ${i}` },
        ]) {
          const result = await broker.publish({ topic, ...input, value: bytes(input.key) }).catch((error: unknown) => error)
          if (!(result instanceof Error)) sent.push(JSON.stringify([input.id, input.key]))
        }
      const got: string[] = []
      await stage.listen(broker, topic, { group: 'g' }, ({ id, key }) => void got.push(JSON.stringify([id, key])))
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(got.sort(), sent.sort())
      assert.ok(sent.length >= 2 * goodValues.length - 2)
    },
  },
  {
    name: 'header names are lower-cased; a name of another grammar, given twice or reserved is refused',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const names = ['X-Mixed', 'a', '0', 'a'.repeat(128), 'a_b.c-d', 'constructor', '__proto__']
      const [message] = await roundTrip(stage, broker, [{ topic, value: bytes(''), headers: Object.fromEntries(names.map((name) => [name, 'v'])) }])
      assert.deepEqual(Object.keys(message!.headers).sort(), names.map((name) => name.toLowerCase()).sort())
      for (const headers of [
        { 'a b': '' },
        { '': '' },
        { ü: '' },
        { ['a'.repeat(129)]: '' },
        { 'a:b': '' },
        { A: '', a: '' },
        { 'cb-failures': '1' },
        { 'CB-x': '' },
      ])
        await assert.rejects(broker.publish({ topic, value: bytes(''), headers }), RangeError, JSON.stringify(headers))
    },
  },
  {
    name: 'names at the edge of their grammar work',
    run: async (stage) => {
      const broker = await stage.broker()
      const topics = [stage.topic('A.b_c-9'), stage.topic('drop table;'.replaceAll(/[ ;]/g, '_')), stage.topic('').padEnd(120, 'x')]
      for (const topic of topics) {
        const got: string[] = []
        await broker.subscribe(topic, { group: `g_${'x'.repeat(61)}-` }, (message) => void got.push(message.topic))
        await broker.publish({ topic, value: bytes('') })
        await stage.until(() => got.length > 0, `a message of ${topic}`)
        assert.deepEqual(got, [topic])
      }
      await broker.deleteTopic(topics[2]!)
    },
  },
  {
    name: 'names beyond their grammar are refused with the value named',
    run: async (stage) => {
      const broker = await stage.broker()
      const bad = ['', '.a', '-a', '_a', 'a b', 'a/b', 'ü', 'a\n', `x${'y'.repeat(120)}`, "a'; DROP TABLE x; --", 'a.retry', 'a.g.dlq', '*']
      const named = (name: string) => (error: unknown) => error instanceof RangeError && error.message.includes(JSON.stringify(name))
      for (const topic of bad) {
        await assert.rejects(broker.publish({ topic, value: bytes('') }), named(topic))
        await assert.rejects(
          broker.subscribe(topic, { group: 'g' }, () => undefined),
          named(topic),
        )
        await assert.rejects(broker.createTopic(topic), named(topic))
      }
      const topic = stage.topic()
      for (const group of ['', 'a.b', 'a b', 'ü', '-a', 'x'.repeat(65)]) {
        await assert.rejects(
          broker.subscribe(topic, { group }, () => undefined),
          named(group),
        )
        await assert.rejects(broker.createGroup(topic, group), named(group))
      }
    },
  },
  {
    name: 'binary, empty and absent bodies are three different things',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      const binary = Uint8Array.from([0xff, 0xfe, 0, 0x80, 0xc0, 0x0a, 0x0d])
      const got = await roundTrip(stage, broker, [
        { topic, key: 'k', value: binary },
        { topic, key: 'k', value: bytes('') },
        { topic, key: 'k', value: bytes(''), tombstone: true },
      ])
      assert.deepEqual(
        got.map(({ value, tombstone }) => [[...value], tombstone]),
        [
          [[...binary], false],
          [[], false],
          [[], true],
        ],
      )
      await assert.rejects(broker.publish({ topic, value: binary, tombstone: true }), TypeError)
    },
  },
  {
    name: 'a body at the limit comes; one byte more is ERR_MESSAGING_TOO_LARGE and not stored',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const limit = Math.min(1_000_000, stage.capabilities.maxMessageBytes - 16_384)
      // Key and headers count.
      const frame = { topic, key: 'ü', headers: { name: 'value' } }
      const value = new Uint8Array(limit - 2 - 9).fill(7)
      await assert.rejects(broker.publish({ ...frame, value: new Uint8Array(value.length + 1) }), code('ERR_MESSAGING_TOO_LARGE'))
      const [tooLarge, fits] = await broker.publishBatch([
        { ...frame, key: 'x', value: new Uint8Array(value.length + 2) },
        { ...frame, value },
      ])
      assert.equal(tooLarge!.status, 'rejected')
      assert.equal(fits!.status, 'stored')
      const got: Message[] = []
      await stage.listen(broker, topic, { group: 'g' }, (message) => void got.push(message))
      await stage.untilRead(broker, topic, 'g')
      assert.equal(got.length, 1)
      assert.ok(Buffer.from(got[0]!.value).equals(value))
    },
  },
  {
    name: 'a smaller limit holds on every broker, a larger one than the broker has is refused',
    run: async (stage) => {
      const broker = await stage.broker({ maxMessageBytes: 100 })
      const topic = stage.topic()
      await broker.publish({ topic, value: new Uint8Array(100) })
      await assert.rejects(broker.publish({ topic, value: new Uint8Array(101) }), code('ERR_MESSAGING_TOO_LARGE'))
      await assert.rejects(stage.broker({ maxMessageBytes: stage.capabilities.maxMessageBytes }), RangeError)
    },
  },
  {
    name: 'the publisher may reuse its buffer once it has its answer',
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const value = bytes('first')
      await broker.publish({ topic, key: 'k', value })
      value.set(bytes('wrong'))
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(
        done.map(({ text }) => text),
        ['first'],
      )
    },
  },
  {
    name: "a key's partition is Kafka's, keyless messages spread, and the answer says where each stands",
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { partitions: 5, groups: ['g'] })
      const keys = ['21', 'foobar', 'a-little-bit-long-string', 'ü€😀', '', ...range(40).map((i) => `key-${i}`)]
      const answers = await broker.publishBatch(keys.map((key) => ({ topic, key, value: bytes('keyed') })))
      await stage.publish(
        broker,
        range(50).map(() => ({ topic, value: bytes('keyless') })),
      )
      const { done } = await stage.listen(broker, topic, { group: 'g' })
      await stage.untilRead(broker, topic, 'g')
      for (const { key, partition } of done) if (key !== undefined) assert.equal(partition, partitionOf(key, 5), `the partition of ${key}`)
      answers.forEach((answer, i) => {
        if (answer.status === 'stored' && answer.partition !== undefined) assert.equal(answer.partition, partitionOf(keys[i]!, 5))
      })
      assert.ok(new Set(done.filter(({ key }) => key === undefined).map(({ partition }) => partition)).size > 1, 'keyless messages spread')
    },
  },
  {
    name: 'a message of another tool is handled, and reaches the dead letters with its bytes',
    needs: needs.inject,
    run: async (stage) => {
      const broker = await stage.broker()
      const topic = stage.topic()
      await broker.createTopic(topic, { groups: ['g'] })
      const strange = { key: Uint8Array.from([0xff, 0, 1]), value: Uint8Array.from([0xfe, 2]), headers: [['UPPER', Uint8Array.from([0xff])] as const] }
      await stage.foreign(topic, strange)
      await stage.foreign(topic, { key: undefined, value: bytes('plain'), headers: [] })
      const got: Message[] = []
      await stage.listen(broker, topic, { group: 'g', retry: { maxAttempts: 1 } }, (message) => {
        got.push(message)
        if (message.value[0] === 0xfe) throw new Error('no')
      })
      await stage.untilRead(broker, topic, 'g')
      assert.deepEqual(got.map(textOf).includes('plain'), true)
      const one = got.find(({ value }) => value[0] === 0xfe)!
      assert.deepEqual([...one.rawKey!], [...strange.key])
      assert.deepEqual(one.rawHeaders, strange.headers)
      const dead = broker.deadLetters(topic, 'g')
      const { letters } = await dead.list()
      assert.deepEqual([...letters[0]!.value], [...strange.value])
      await dead.replay({ filter: () => true })
      await stage.until(() => got.length === 3, 'the replay')
      assert.deepEqual([...(got[2]!.rawKey ?? [])], [...strange.key], 'the key survives dead letter and replay')
      assert.deepEqual(got[2]!.rawHeaders, strange.headers)
    },
  },
]
