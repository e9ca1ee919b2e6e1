// What the files of a new package say: the least that passes the gate and shows the house.
export const noun = (name: string): string => name[0]!.toUpperCase() + name.slice(1)

export const heartText = (name: string): string => `import { type Clock, systemClock } from '#internal/clock'

/** What {@link open${noun(name)}} takes. */
export interface ${noun(name)}Options {
  /** @default the system's clock */
  clock?: Clock
}

/** What the user of the package holds. Close it when done; closing twice is fine. */
export interface ${noun(name)} extends AsyncDisposable {
  /** When it was opened, ms since the epoch. */
  readonly openedAt: number
  close(): Promise<void>
}

/** Opens one. Holds nothing yet that closing would have to release. */
export function open${noun(name)}({ clock = systemClock }: ${noun(name)}Options = {}): ${noun(name)} {
  const close = async (): Promise<void> => {}
  return { openedAt: clock.now(), close, [Symbol.asyncDispose]: close }
}
`

export const testText = (name: string): string => `import assert from 'node:assert/strict'
import { test } from 'node:test'
import { open${noun(name)} } from './index.ts'

test('knows when it was opened, by the clock that it is given', async () => {
  const ${name} = open${noun(name)}({ clock: { now: () => 42, monotonic: () => 0, sleep: async () => {} } })
  assert.equal(${name}.openedAt, 42)
  await ${name}.close()
  await ${name}.close()
})
`

export const exampleText = (name: string): string => `import { open${noun(name)} } from '@core-backend/${name}'

const ${name} = open${noun(name)}()
console.log(${name}.openedAt <= Date.now())
await ${name}.close()

// Prints:
// true
`

export const readmeText = (name: string, description: string): string =>
  `# @core-backend/${name}\n\n${description}.\n\n<!-- examples/${name}.ts -->\n\`\`\`ts\n${exampleText(name)}\`\`\`\n\n` +
  `\`\`\`sh\nnpm install @core-backend/${name}\n\`\`\`\n\nNode 22.22 or later.\n\n## What it promises, and what not\n\n- It is open from \`open${noun(name)}\` to \`close()\`, which may be called twice.\n\nStatus: \`new\`.\n`
