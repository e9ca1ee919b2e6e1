import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { commandOf, ps, startIdOf } from './claim.ts'

/** The lines of `postmaster.pid`: pid, folder, start, port, socket folder, address, shared memory, status. */
export function postmasterFile(cluster: string): string[] {
  try {
    return readFileSync(join(cluster, 'postmaster.pid'), 'utf8').split('\n')
  } catch {
    return []
  }
}

const names = (command: string, cluster: string): boolean => `${command} `.includes(`-D ${cluster} `)

/** The pid of a live server on this cluster, and of nothing else that may have got its pid meanwhile. */
export function postmasterOf(cluster: string): number | undefined {
  const pid = Number(postmasterFile(cluster)[0])
  const ours = pid > 0 && startIdOf(pid) !== undefined && names(commandOf(pid), cluster)
  return ours ? pid : undefined
}

/** PostgreSQL refuses to start while any process has the pid in its file. The shared memory, found by the folder's inode, still guards the data. */
export function forgetReusedPid(cluster: string): void {
  const pid = Number(postmasterFile(cluster)[0])
  if (pid > 0 && startIdOf(pid) !== undefined && postmasterOf(cluster) === undefined) rmSync(join(cluster, 'postmaster.pid'), { force: true })
}

/**
 * The server's processes without its postmaster, each of which has a session of its own. They work in the cluster's folder, by which Linux also finds those that
 * outlived their postmaster; elsewhere they are its children, and without one there are none to see.
 */
export function backendsOf(cluster: string, postmaster?: number): number[] {
  if (process.platform !== 'linux') {
    const pairs = postmaster === undefined || process.platform === 'win32' ? '' : ps('ppid=,pid=', '-ax')
    return [...pairs.matchAll(/(\d+) +(\d+)/g)].flatMap(([, parent, pid]) => (Number(parent) === postmaster ? [Number(pid)] : []))
  }
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && pid !== postmaster && isBackend(pid, cluster))
}

function isBackend(pid: number, cluster: string): boolean {
  const command = commandOf(pid)
  // One that was forked a moment ago still has its postmaster's command line.
  if (!command.startsWith('postgres: ') && !names(command, cluster)) return false
  try {
    // Not by the path: in a container another folder may have the same.
    const [its, ours] = [statSync(`/proc/${pid}/cwd`), statSync(cluster)]
    return its.dev === ours.dev && its.ino === ours.ino
  } catch {
    return false
  }
}

/** Those that are gone are left out. */
export function signalAll(pids: readonly number[], signal: 'SIGCONT' | 'SIGKILL'): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal)
    } catch {}
  }
}

/**
 * Fast shutdown, then immediate (as a crash: the next start recovers; PostgreSQL kills after 5 s what of it does not end), then SIGKILL for all; each also wakes
 * what stands still. Returns when the postmaster is gone.
 */
export async function stop(cluster: string, pid: number, patienceMs: number): Promise<void> {
  const life = startIdOf(pid)
  if (life === undefined) return
  for (const [signal, waitMs] of [
    ['SIGINT', patienceMs],
    ['SIGQUIT', 10_000],
    ['SIGKILL', 60_000],
  ] as const) {
    const backends = backendsOf(cluster, pid)
    try {
      process.kill(pid, signal)
    } catch {
      return
    }
    signalAll([pid, ...backends], 'SIGCONT')
    if (signal === 'SIGKILL') signalAll(backends, signal)
    const until = performance.now() + waitMs
    while (startIdOf(pid) === life && performance.now() < until) await sleep(10)
    if (startIdOf(pid) !== life) return
  }
}
