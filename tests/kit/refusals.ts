import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

/** What a user without types may write, and the whole text of its error. */
export type Refusal = readonly [call: () => unknown, text: string]

/** The call without any argument. */
export const bare =
  (call: unknown): Refusal[0] =>
  () =>
    (call as () => unknown)()

/** A value of a type that it does not have. */
export const any = (value: unknown): never => value as never

/** Each row a test: the call throws or rejects with exactly this text. */
export function describeRefusals(rows: Record<string, readonly Refusal[]>): void {
  for (const [name, calls] of Object.entries(rows))
    describe(`${name}: what cannot be meant is refused, and the error says what is allowed`, () => {
      for (const [call, text] of calls)
        test(text, () =>
          assert.rejects(
            async () => call(),
            (error: Error) => (assert.equal(`${error.name}: ${error.message}`, text), true),
          ),
        )
    })
}
