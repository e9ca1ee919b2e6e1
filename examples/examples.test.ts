import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { describe, test } from 'node:test'
import { prints } from '../tools/examples.ts'
import { read, repository, run } from '../tools/workspace.ts'

// What an example says that it prints is in its last comment, and in the README that shows it.
describe('every example prints what it says', { concurrency: 2 }, () => {
  for (const file of globSync('examples/*.ts', { cwd: repository, exclude: ['**/*.test.ts'] }).toSorted())
    test(file, async () => {
      const { ok, output } = await run(process.execPath, ['--conditions=@core-backend/source', file], { timeoutMs: 100_000 })
      assert.ok(ok, output)
      assert.equal(output.trimEnd(), prints(read(repository, file)))
    })
})
