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

test('npm run example runs one by its name, and says which there are', async () => {
  const example = (...names: string[]): ReturnType<typeof run> => run('npm', ['run', '--silent', 'example', '--', ...names])
  for (const name of ['events-versions', 'events-versions.ts', 'examples/events-versions.ts']) {
    const { ok, output } = await example(name)
    assert.ok(ok, output)
    assert.equal(output.trimEnd(), prints(read(repository, 'examples/events-versions.ts')))
  }
  for (const [names, text] of [
    [['mesaging'], /^No example is called mesaging: there are events, .*messaging, .*outbox-pg, service, service-pg\n$/],
    [[], /^Which example\? npm run example -- messaging; there are events, .*messaging, .*outbox-pg, service, service-pg\n$/],
    [['../tools/check'], /^No example is called /],
  ] as const) {
    const { ok, output } = await example(...names)
    assert.match(output, text)
    assert.ok(!ok)
  }
})
