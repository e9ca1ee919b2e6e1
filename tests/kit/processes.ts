import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { opened } from './leaks.ts'

export interface ProgramOptions {
  args?: readonly string[]
  /** Added to this process's environment; `undefined` takes a variable away. */
  env?: Record<string, string | undefined>
  cwd?: string
  /** For programs that a test runs as somebody else. */
  uid?: number
  gid?: number
  /** @default this process's Node */
  node?: string
}

export interface Program {
  readonly pid: number
  /** What it wrote so far, stdout and stderr together, line by line. */
  readonly lines: readonly string[]
  /** Settles at its end; `code` is `null` when a signal killed it. */
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  /** The first line that matches, from those already written on. Rejects when the program ends without it or after `guardMs`. @default 20_000 */
  line(pattern: RegExp, guardMs?: number): Promise<string>
  /** Writes to its standard input. */
  write(text: string): void
  /** @default SIGTERM */
  kill(signal?: NodeJS.Signals): void
  /** SIGKILL, unless it has ended, and waits for its end. */
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Runs a TypeScript (or JavaScript) program on the workspace's sources, in a process of its own. */
export function startProgram(file: string, { args = [], env = {}, cwd, uid, gid, node = process.execPath }: ProgramOptions = {}): Program {
  const child = spawn(node, ['--conditions=@core-backend/source', file, ...args], {
    // Without the test runner's own variable, which would make the child speak its protocol.
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, ...env },
    stdio: 'pipe',
    ...(cwd !== undefined && { cwd }),
    ...(uid !== undefined && { uid }),
    ...(gid !== undefined && { gid }),
  })
  return asProgram(child, file)
}

/** The same for a child that was started in another way, with its three streams piped. */
export function asProgram(child: ChildProcess, name: string): Program {
  if (child.pid === undefined || !child.stdout || !child.stderr) throw new Error(`Cannot run ${name}`)
  const pid = child.pid
  const lines: string[] = []
  const watchers = new Set<() => void>()
  const wake = (): void => {
    for (const watcher of watchers) watcher()
  }
  const ended = [child.stdout, child.stderr].map((stream) => {
    const reader = createInterface({ input: stream })
    reader.on('line', (line) => {
      lines.push(line)
      wake()
    })
    return once(reader, 'close')
  })
  const closed = opened(`program ${name} (pid ${pid})`)
  let over = false
  const exited = once(child, 'exit').then(async ([code, signal]: unknown[]) => {
    closed()
    await Promise.all(ended)
    over = true
    wake()
    return { code: code as number | null, signal: signal as NodeJS.Signals | null }
  })
  const kill = (signal: NodeJS.Signals = 'SIGTERM'): void => void child.kill(signal)
  const close = async (): Promise<void> => {
    if (!over) kill('SIGKILL')
    await exited
  }
  return {
    pid,
    lines,
    exited,
    line: (pattern, guardMs = 20_000) =>
      new Promise((resolve, reject) => {
        const settle = (then: () => void): void => {
          clearTimeout(guard)
          watchers.delete(look)
          then()
        }
        const fail = (why: string): void => settle(() => reject(new Error(`${name} ${why} without a line like ${pattern}; it wrote:\n${lines.join('\n')}`)))
        const look = (): void => {
          const found = lines.find((line) => pattern.test(line))
          if (found !== undefined) settle(() => resolve(found))
          else if (over) fail('ended')
        }
        const guard = setTimeout(() => fail(`ran ${guardMs} ms`), guardMs)
        watchers.add(look)
        look()
      }),
    write: (text) => void child.stdin?.write(text),
    kill,
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** A TCP port of 127.0.0.1 that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('No free port')
  return address.port
}
