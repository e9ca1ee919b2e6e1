// Runs many test files in one process, one after the other, each in a suite of its own: ten times quicker than a process each. Node's own `--test-isolation=none` lets
// a file's hooks reach all others, forgets an import that throws after its first test, and waits for ever on a leaked handle without naming the file.
import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { suite, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

const [progress, ...files] = process.argv.slice(2)

/** What keeps the process alive, counted by kind. Files and name look-ups settle by themselves; pipes are the runner's. */
function handles(): Map<string, number> {
  const counts = new Map<string, number>()
  for (const kind of process.getActiveResourcesInfo()) if (!/^(FSReq|PipeWrap|TTYWrap|Immediate)/.test(kind)) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  return counts
}

// A test that waits for a timer which keeps no process alive must not let node:test believe that all is over: the files behind it would not run, and nobody be told.
const awake = setInterval(() => undefined, 60_000)
const before = handles()
let leaks = false
for (const file of files) {
  writeFileSync(progress!, file)
  await suite(file, { timeout: 60_000 }, async () => {
    await import(resolve(file))
  })
  const leaked = (): string[] => [...handles()].flatMap(([kind, n]) => (n > (before.get(kind) ?? 0) ? [`${n - (before.get(kind) ?? 0)} ${kind}`] : []))
  // What was closed a moment ago may take a turn or two of the event loop.
  for (let tries = 0; leaked().length > 0 && tries < 100; tries++) await sleep(20)
  const left = leaked().join(', ')
  if (left === '') continue
  leaks = true
  for (const [kind, n] of handles()) before.set(kind, n)
  await test(`${file} leaves nothing open`, () => {
    throw new Error(`${file} left open: ${left}`)
  })
}
writeFileSync(progress!, '')
clearInterval(awake)
if (leaks) {
  // node:test sums up when the event loop runs dry, which here it never would.
  process.emit('beforeExit', 0)
  setTimeout(() => process.exit(1), 2_000)
}
