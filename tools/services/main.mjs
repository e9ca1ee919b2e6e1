// scripts/services up|down|status [name…] [--json] [--own]: the servers that tests use. Takes what answers on the usual port (not with --own), else starts what is
// installed, else says how to get it; writes the addresses to .services/addresses.json. Never touches a server that it did not start. Plain JavaScript: it runs before `npm ci`, on the machine's Node.
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { servers } from './servers.mjs'

const home = join(import.meta.dirname, '../../.services')
const file = join(home, 'addresses.json')
const [command, ...rest] = process.argv.slice(2)
const own = rest.includes('--own')
const names = rest.filter((arg) => !arg.startsWith('--'))
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** `{ name, url, version, startedByUs, processes: [{ pid, life }] }` for each server that `up` found or started. */
const known = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : []
const remember = (entries) => {
  mkdirSync(home, { recursive: true })
  writeFileSync(file, `${JSON.stringify(entries, null, 2)}\n`)
}

async function find(server) {
  const entry = known.find((e) => e.name === server.name)
  const ports = [...new Set([...(entry ? [Number(new URL(entry.url).port)] : []), server.port])]
  let reason = ''
  for (const port of ports) {
    try {
      const version = await server.probe(port)
      const startedByUs = (entry?.processes ?? []).some(isAlive) && port === ports[0]
      return { name: server.name, url: server.url(port), version, startedByUs, processes: startedByUs ? entry.processes : [] }
    } catch (error) {
      reason = error.message
    }
  }
  return { name: server.name, reason }
}

async function up(server) {
  const found = await find(server)
  if (found.startedByUs || (found.url && !own)) return found
  let missing = server.programs().includes(undefined)
  if (missing && process.env.CI === 'true' && process.getuid?.() === 0 && existsSync('/usr/bin/apt-get')) {
    install(server.debian)
    missing = server.programs().includes(undefined)
  }
  if (missing) return { name: server.name, reason: `not installed: apt-get install ${server.debian.join(' ')}, or docker compose up -d ${server.name}` }
  const dir = join(home, server.name)
  mkdirSync(dir, { recursive: true })
  const port = await portFor(server.port)
  const log = openSync(join(dir, 'log'), 'w')
  const processes = []
  try {
    for (const { command, env, ...user } of server.start({ port, dir, addresses: known })) {
      const [program, ...args] = command
      const child = spawn(program, args, { ...user, env: { ...process.env, ...env }, cwd: '/', detached: true, stdio: ['ignore', log, log] })
      child.once('error', () => {})
      child.unref()
      if (child.pid === undefined) throw new Error(`cannot run ${program}`)
      processes.push({ pid: child.pid, life: lifeOf(child.pid) })
    }
    for (const until = Date.now() + 90_000; ; await sleep(100)) {
      const version = await server.probe(port).catch(() => undefined)
      if (version) return { name: server.name, url: server.url(port), version, startedByUs: true, processes }
      if (Date.now() > until || !processes.every(isAlive)) throw new Error(`did not start, see ${join(dir, 'log')}`)
    }
  } catch (error) {
    await stop(processes)
    return { name: server.name, reason: String(error.stderr || error.message).trim() }
  } finally {
    closeSync(log)
  }
}

/** The last started goes first; SIGTERM, after 20 s SIGKILL. */
async function stop(processes) {
  for (const each of processes.toReversed?.() ?? [...processes].reverse()) {
    for (const [signal, ms] of [
      ['SIGTERM', 20_000],
      ['SIGKILL', 5_000],
    ]) {
      if (isAlive(each)) process.kill(each.pid, signal)
      for (const until = Date.now() + ms; isAlive(each) && Date.now() < until;) await sleep(50)
    }
  }
}

/** RUNLEVEL=1 keeps Debian from starting the service, whose configuration is not ours. */
function install(packages) {
  const env = { ...process.env, RUNLEVEL: '1', DEBIAN_FRONTEND: 'noninteractive' }
  const apt = (...args) => execFileSync('apt-get', ['-q', ...args], { env, stdio: ['ignore', 'ignore', 'inherit'] })
  try {
    apt('install', '-y', '--no-install-recommends', ...packages)
  } catch {
    apt('update')
    apt('install', '-y', '--no-install-recommends', ...packages)
  }
}

/** What tells a process from a later one with its pid: its start. `undefined` when it is gone (a zombie is). */
function lifeOf(pid) {
  try {
    if (process.platform !== 'linux') return execFileSync('ps', ['-o', 'lstart=', '-p', `${pid}`], { encoding: 'utf8' }).trim()
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? undefined : fields[19]
  } catch {
    return undefined
  }
}
function isAlive({ pid, life }) {
  return life !== undefined && lifeOf(pid) === life
}

/** The usual one, else, where somebody else has it (who refuses our login), any free one. */
function portFor(usual) {
  const tryPort = (port) =>
    new Promise((resolve) => {
      const server = createServer()
      server.once('error', () => resolve(undefined))
      server.listen(port, '127.0.0.1', () => {
        const { port } = server.address()
        server.close(() => resolve(port))
      })
    })
  return tryPort(usual).then((port) => port ?? tryPort(20_000 + Math.floor(Math.random() * 10_000)).then((other) => other ?? tryPort(0)))
}

const unknown = names.filter((name) => !servers.some((s) => s.name === name))
if (!['up', 'down', 'status'].includes(command) || unknown.length > 0) {
  console.error(`usage: scripts/services up|down|status [${servers.map((s) => s.name).join('|')}…] [--json] [--own]`)
  process.exit(2)
}
const wanted = servers.filter((s) => names.length === 0 || names.includes(s.name))
let report = []
if (command === 'down') {
  for (const { name, startedByUs, processes } of [...known].reverse()) {
    if (!startedByUs || !wanted.some((s) => s.name === name)) continue
    await stop(processes)
    report.push({ name, reason: 'stopped' })
  }
  remember(known.filter((e) => !wanted.some((s) => s.name === e.name)))
} else if (command === 'status') {
  report = await Promise.all(wanted.map(find))
} else {
  for (const server of wanted) {
    const entry = await up(server)
    report.push(entry)
    const at = known.findIndex((e) => e.name === entry.name)
    if (at >= 0) known.splice(at, 1)
    if (entry.url) known.push(entry)
    remember(known)
  }
}
if (rest.includes('--json')) console.log(JSON.stringify(report))
else
  for (const { name, url, version, startedByUs, reason } of report)
    console.log(`${name.padEnd(16)}${url ? `${version.padEnd(10)}${url}${startedByUs ? ' (started by us)' : ''}` : reason}`)
// Whoever names a server needs it.
if (command === 'up' && names.length > 0 && report.some((entry) => !entry.url)) process.exitCode = 1
