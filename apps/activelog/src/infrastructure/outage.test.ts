import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { type Outage, watchOutage } from './outage.ts'

let now = 0
let lines: string[] = []
let outage: Outage
const note =
  (level: string) =>
  (_: object, text: string): void =>
    void lines.push(`${level}: ${text}`)

beforeEach(() => {
  now = 0
  lines = []
  const logger = { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') }
  outage = watchOutage('postgres://u:secret@db.test:5432/activelog', logger, { everyMs: 10_000, now: () => now })
})

const refused = (): Error => Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' })
async function failing(error: Error): Promise<never> {
  throw error
}
const fail = (error: Error = refused()): Promise<void> => assert.rejects(outage.watch(failing(error)), error)
const answer = (): Promise<unknown> => outage.watch(Promise.resolve('here'))

test('an outage is a line when it begins, one now and then, and one when it is over', async () => {
  await answer()
  for (; now < 25_000; now += 1_000) await fail()
  await answer()
  await answer()
  assert.deepEqual(lines, ['warn: The database is away', 'warn: The database is still away', 'warn: The database is still away', 'info: The database is back'])
})

test('an answer that was asked for before the last failure does not end it', async () => {
  const early = Promise.withResolvers<void>()
  const asked = outage.watch(early.promise)
  await fail()
  early.resolve()
  await asked
  assert.deepEqual(lines, ['warn: The database is away'])
  await answer()
  assert.equal(lines.length, 2)
})

test('an outage soon after another one has its own two lines', async () => {
  for (; now < 4_000; now += 1_000) {
    await fail()
    now += 1_000
    await answer()
  }
  assert.deepEqual(lines, ['warn: The database is away', 'info: The database is back', 'warn: The database is away', 'info: The database is back'])
})

test('a database that comes and goes with every statement is told once a second', async () => {
  for (; now < 1_000; now += 100) {
    await fail()
    await answer()
  }
  assert.deepEqual(lines, ['warn: The database is away', 'info: The database is back'])
})

test('a statement that the server refuses is no outage', async () => {
  await fail(Object.assign(new Error('duplicate key'), { code: '23505' }))
  assert.deepEqual(lines, [])
})

test('who finds no free connection in time says nothing about the server, except while it is away', async () => {
  const busy = (): Error => new Error('timeout exceeded when trying to connect')
  const alone = busy()
  await fail(alone)
  outage.logger.error({ err: alone }, 'busy')
  assert.deepEqual(lines.splice(0), ['error: busy'])
  now = 4_000
  await fail(Object.assign(new Error('lock timeout'), { code: '55P03' }))
  now = 8_000
  await fail(busy())
  assert.deepEqual(lines, [], 'it answered somebody meanwhile')
  await fail()
  const meanwhile = busy()
  await fail(meanwhile)
  outage.logger.error({ err: meanwhile }, 'busy')
  assert.deepEqual(lines.splice(0), ['warn: The database is away', 'debug: busy'])
  await answer()
  lines = []
  now += 5_000
  await fail(busy())
  assert.deepEqual(lines, ['warn: The database is away'], 'nobody has heard from it for as long as one waited')
})

test('an answer shows that the server is there; that another one found no free connection does not', async () => {
  const busy = (): Promise<void> => fail(new Error('timeout exceeded when trying to connect'))
  now = 4_000
  await answer()
  now = 8_999
  await busy()
  assert.deepEqual(lines, [])
  now = 9_000
  await busy()
  assert.deepEqual(lines, ['warn: The database is away'])
})

test('what an outage makes fail is a matter of debug, everything else keeps its line', async () => {
  const cause = refused()
  outage.logger.warn({ err: new Error('no answer within 5000 ms') }, 'slow')
  await fail(cause)
  lines = []
  outage.logger.warn({ err: cause }, 'itself')
  outage.logger.error({ err: new Error('publish', { cause: new Error('query', { cause }) }) }, 'caused')
  outage.logger.warn({ err: new Error('The database gave no answer within 5000 ms') }, 'silent')
  outage.logger.warn({ err: refused() }, 'of another server')
  outage.logger.error({}, 'without an error')
  assert.deepEqual(lines, ['debug: itself', 'debug: caused', 'debug: silent', 'warn: of another server', 'error: without an error'])
})
