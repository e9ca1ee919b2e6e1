import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { saysNo, watched } from './callbacks.ts'

/** The warnings that came, once all promises have settled. */
function warnings(t: TestContext): () => Promise<string[]> {
  const seen: string[] = []
  const onWarning = ({ name, message }: Error): void => void (name === 'TestWarning' && seen.push(message))
  process.on('warning', onWarning)
  t.after(() => process.off('warning', onWarning))
  return async () => {
    await new Promise((resolve) => setImmediate(resolve))
    return seen
  }
}

test('what a hook throws, now or later, is a warning, also when it has no text of its own', async (t) => {
  const warned = warnings(t)
  for (const thrown of [new Error('e'), Object.create(null), Symbol('s'), undefined]) {
    watched('Hook h', 'TestWarning', () => {
      throw thrown
    })
    watched('Hook h', 'TestWarning', () => Promise.reject(thrown))
  }
  watched('Hook h', 'TestWarning', () => Promise.resolve())
  const texts = ['Error: e', 'Symbol(s)', 'undefined', '{}']
  assert.deepEqual(
    (await warned()).toSorted(),
    texts.flatMap((text) => [`Hook h threw: ${text}`, `Hook h threw: ${text}`]),
  )
})

test('only false says no; what throws, or gives a promise, has not, and is warned of', async (t) => {
  const warned = warnings(t)
  const answers = [false, true, undefined, null, 0, Promise.resolve(false), Promise.reject(new Error('later'))]
  assert.deepEqual(
    answers.map((answer) => saysNo('isOk', 'TestWarning', () => answer)),
    [true, false, false, false, false, false, false],
  )
  const failing = saysNo('isOk', 'TestWarning', () => {
    throw Symbol('s')
  })
  assert.equal(failing, false)
  const promised = 'isOk threw: TypeError: isOk must give true or false, got a promise'
  assert.deepEqual(await warned(), [promised, 'isOk threw: Symbol(s)'])
})
