import { after, describe, test } from 'node:test'
import { skipUnless } from '../../../../tests/kit/services.ts'
import { outboxContract } from './contract.ts'
import { schemas } from './harness.test.ts'

for (const [flavour, service] of [
  ['pg15', 'postgres15'],
  ['pgbouncer', 'pgbouncer'],
] as const)
  describe(`the PostgreSQL store on ${flavour}`, { concurrency: 4, skip: skipUnless(service) }, () => {
    const { open, close } = schemas(flavour)
    after(close)
    for (const { name, run } of outboxContract) test(name, () => run({ open }))
  })
