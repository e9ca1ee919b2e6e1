import { after } from 'node:test'

const open = new Map<symbol, string>()

/** Notes something that somebody must close; the function returned says that it is closed. */
export function opened(what: string): () => void {
  const key = Symbol(what)
  open.set(key, `${what}${new Error('opened').stack?.split('\n').find((line) => line.includes('.test.ts')) ?? ''}`)
  return () => void open.delete(key)
}

function report(): void {
  const left = [...open.values(), ...process.getActiveResourcesInfo().filter((name) => !/^(Timeout|Immediate|TTYWrap|PipeWrap)$/.test(name))]
  console.error(`Left open at the end of ${process.argv[1]}:\n  ${left.join('\n  ')}`)
  process.exitCode = 1
}

// In a file that runs in a process of its own: what is still noted at its exit fails it, and so does whatever keeps the process from ending once the tests are over.
if (process.env['NODE_TEST_CONTEXT'] !== undefined) {
  process.once('exit', () => open.size > 0 && report())
  after(() => {
    // A server that is told to stop may take its time on a machine with much to do.
    setTimeout(() => {
      open.set(Symbol('running'), 'the process itself, 30 s after its last test')
      process.exit()
    }, 30_000).unref()
  })
}
