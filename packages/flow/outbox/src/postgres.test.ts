import { after, describe, test } from 'node:test'
import { outboxContract } from './contract.ts'
import { schemas } from './harness.test.ts'

for (const flavour of ['pg18', 'pglite'] as const)
  describe(`the PostgreSQL store on ${flavour}`, { concurrency: flavour === 'pglite' ? 1 : 4 }, () => {
    const { open, close } = schemas(flavour)
    after(close)
    for (const { name, concurrent, run } of outboxContract)
      test(name, { skip: concurrent && flavour === 'pglite' ? 'one connection' : false }, () => run({ open }))
  })
