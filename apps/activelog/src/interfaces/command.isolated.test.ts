import assert from 'node:assert/strict'
import { test } from 'node:test'
import { runCommand } from './command.ts'

test('a demo that fails is one line and exit code 1, and leaves nothing open', async (t) => {
  const told = t.mock.method(console, 'error', () => {})
  t.mock.method(console, 'log', () => {})
  let closed = 0
  const progress = (): Promise<never> => Promise.resolve(undefined as never)
  await runCommand(async () => ({ url: 'http://127.0.0.1:1', psql: undefined, progress, close: async () => void closed++ }), ['--demo'])
  const { exitCode } = process
  process.exitCode = 0
  assert.deepEqual([closed, exitCode], [1, 1])
  assert.match(String(told.mock.calls[0]?.arguments), /^activelog: Cannot .* undefined/)
})
