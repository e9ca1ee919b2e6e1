import type { Broker } from '../broker.ts'
import { bytes, once, range, type Stage } from './stage.ts'

/** A topic with `n` dead letters of the group `g`, all of one key unless told, the oldest first; nobody reads any more. */
export async function graveyard(stage: Stage, broker: Broker, n: number, keys = 1): Promise<string> {
  const topic = stage.topic()
  await broker.createTopic(topic, { partitions: 1, groups: ['g', 'other'] })
  await stage.publish(
    broker,
    range(n).map((i) => ({ topic, key: `key-${i % keys}`, value: bytes(String(i)), id: `m${i}`, headers: { n: String(i) } })),
  )
  const { subscription } = await stage.listen(broker, topic, { group: 'g', retry: once }, () => {
    throw Object.assign(new Error('buried'), { code: 'ERR_BURIED' })
  })
  await stage.untilRead(broker, topic, 'g')
  await subscription.close()
  return topic
}
