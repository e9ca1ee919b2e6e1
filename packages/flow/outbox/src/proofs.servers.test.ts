import { after, describe, test } from 'node:test'
import { skipUnless } from '../../../../tests/kit/services.ts'
import { schemas } from './harness.test.ts'
import { commitOrder, others, outage, plan } from './proof-cases.test.ts'

for (const [flavour, skip] of [
  ['pg18', false],
  ['pg15', skipUnless('postgres15')],
] as const)
  describe(`proofs in full on ${flavour}`, { skip }, () => {
    const { open, close } = schemas(flavour)
    after(close)

    for (const relays of [2, 4])
      test(`${relays} relays, and ids that commit in another order`, async () =>
        commitOrder(await open(), { relays, writers: 16, transactions: 150, keys: 25 }))

    test('a turn reads its batch by the index at a backlog of a million', async () => plan(await open(), 1_000_000))

    test('a topic that takes nothing has 250,000 rows at the head: the others go on', async () => others(await open(), 250_000))

    test('the broker is down for a minute under load', { skip: flavour === 'pg15' ? 'once is enough' : false }, async () =>
      outage(await open(), { outageMs: 60_000, relays: 2 }),
    )
  })
