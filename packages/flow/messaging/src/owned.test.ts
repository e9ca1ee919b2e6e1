import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Delivery } from './driver.ts'
import { Job } from './job.ts'
import { Owned } from './owned.ts'
import { createSchedule } from './schedule.ts'
import type { Source } from './source.ts'

const source = { count: () => undefined } as unknown as Source
const delivery = { partition: 0, epoch: 1, position: '0', suspect: false, message: { id: 'a', key: 'k', headers: {} } } as unknown as Delivery

test('the lane of a handler that outlived its epoch stands in the next one until it ends, and is forgotten there', () => {
  const started: Job[] = []
  const schedule = createSchedule({ order: 'key', concurrency: 2, open: () => true, start: (job) => void started.push(job) })
  const add = (owned: Owned): Job => {
    const job = new Job(delivery, owned, 'g')
    owned.add(job)
    schedule.add(job, 'k')
    schedule.run()
    return job
  }
  const first = new Owned(source, 0, 1)
  const before = add(first)
  const second = new Owned(source, 0, 2, [first])
  const again = add(second)
  assert.deepEqual(started, [before], 'it waits for the one of before')
  schedule.free(before, false)
  schedule.run()
  assert.deepEqual(started, [before, again])
  assert.deepEqual([...second.lanes.keys()], ['k'])
  schedule.free(again, false)
  assert.equal(second.lanes.size, 0)
})
