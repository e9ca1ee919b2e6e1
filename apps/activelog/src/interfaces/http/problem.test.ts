import assert from 'node:assert/strict'
import { test } from 'node:test'
import { InvalidActivityError } from '../../domain/activity.ts'
import { CommitLostError } from '../../infrastructure/database.ts'
import { badField, problem } from './problem.ts'

async function answerTo(error: unknown): Promise<[status: number, retryAfter: string | null, detail: string]> {
  const answer = problem(error, 'r')
  return [answer.status, answer.headers.get('retry-after'), ((await answer.json()) as { detail: string }).detail]
}

const trouble = (code: string): Error => Object.assign(new Error('trouble'), { code })

test('what the server gave up, or cannot do now, may be tried again, and anything else is a fault of ours', async () => {
  // Cancelled or timed out, deadlock, serialization, idle in a transaction, a transaction that took too long.
  for (const code of ['57014', '40P01', '40001', '25P02', '25P03', '25P04'])
    assert.deepEqual(await answerTo(trouble(code)), [503, '1', 'The database gave this up, and nothing of it is done; try again'], code)
  // Nobody is let in: a password that was changed, a database that is being restored.
  for (const code of ['28P01', '28000', '3D000', '57P03', 'ECONNREFUSED'])
    assert.deepEqual(await answerTo(trouble(code)), [503, '1', 'The database cannot be reached; try again'], code)
  for (const code of ['23505', '42P01', '22012']) assert.deepEqual(await answerTo(trouble(code)), [500, null, 'Something went wrong here'], code)
})

test('a commit whose answer is lost may have been done: nobody is asked to try again without a key', async () => {
  const [status, retryAfter, detail] = await answerTo(new CommitLostError(trouble('ECONNRESET')))
  assert.deepEqual([status, retryAfter], [503, null])
  assert.equal(detail, 'The connection to the database was lost at the end: this may be done; repeat a POST only under an Idempotency-Key')
})

test('a fault names its field; one of the body as a whole names none', async () => {
  const errors = async (error: unknown): Promise<unknown> => ((await problem(error, 'r').json()) as { errors: unknown }).errors
  assert.deepEqual(await errors(badField('limit', 'is wrong')), [{ field: 'limit', detail: 'is wrong' }])
  assert.deepEqual(await errors(badField('', 'The body is not JSON')), [{ detail: 'The body is not JSON' }])
  assert.deepEqual(await errors(new InvalidActivityError([{ field: '', detail: 'must be a JSON object' }])), [{ detail: 'must be a JSON object' }])
})
