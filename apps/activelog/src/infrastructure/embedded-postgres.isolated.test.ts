import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { asProgram, freePort, type Program, startProgram } from '@core-backend/testkit/processes'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { Client } from 'pg'
import { type EmbeddedPostgres, type EmbeddedPostgresOptions, startEmbeddedPostgres } from './embedded-postgres.ts'
import { programsOfNpm } from './embedded-postgres/account.ts'
import { startIdOf } from './embedded-postgres/claim.ts'

const root = process.getuid?.() === 0
const fixture = join(import.meta.dirname, 'embedded-postgres.fixture.ts')
const temporary: string[] = []
after(() => temporary.forEach((folder) => rmSync(folder, { recursive: true, force: true })))

function folder(mode = 0o755): string {
  const path = mkdtempSync(join(tmpdir(), 'cbtest-embedded-'))
  temporary.push(path)
  chmodSync(path, mode)
  return path
}

async function query(server: { url: string }, sql: string): Promise<unknown[]> {
  const client = new Client({ connectionString: server.url })
  await client.connect()
  try {
    return (await client.query<Record<string, unknown>>(sql)).rows.map((row) => Object.values(row)[0])
  } finally {
    await client.end()
  }
}

async function using<T>(options: EmbeddedPostgresOptions, fn: (server: EmbeddedPostgres) => Promise<T>): Promise<T> {
  const server = await startEmbeddedPostgres(options)
  try {
    return await fn(server)
  } finally {
    await server.close()
  }
}

/** The application of the fixture, and the pid of its server. */
async function application(dataDir: string): Promise<{ app: Program; pid: number; url: string }> {
  const app = startProgram(fixture, { args: [dataDir] })
  const [, pid, url = ''] = (await app.line(/^(ready|failed) /)).split(' ')
  return { app, pid: Number(pid), url }
}

// One folder for most tests, each of which leaves it closed: initdb takes longer than all the rest.
const dataDir = folder()

test('what was committed is there after a close and the next start, durably kept', async () => {
  await using({ dataDir }, async (server) => {
    assert.deepEqual(await query(server, 'SHOW fsync'), ['on'])
    assert.deepEqual(await query(server, 'SHOW synchronous_commit'), ['on'])
    assert.deepEqual(await query(server, 'SHOW unix_socket_directories'), [''])
    assert.deepEqual(await query(server, 'SHOW listen_addresses'), ['127.0.0.1'])
    await query(server, "CREATE TABLE kept AS SELECT 'one' AS text")
  })
  await using({ dataDir, settings: { work_mem: '8MB' } }, async (server) => {
    assert.deepEqual(await query(server, 'SELECT text FROM kept'), ['one'])
    assert.deepEqual(await query(server, 'SHOW work_mem'), ['8MB'])
  })
})

const withoutPassword = (url: string): string => Object.assign(new URL(url), { password: '' }).href

test('whoever has not the password does not get in, and another user cannot read it', async () => {
  const server = await startEmbeddedPostgres({ dataDir })
  try {
    await assert.rejects(query({ url: withoutPassword(server.url) }, 'SELECT 1'), /password/)
    await assert.rejects(query({ url: Object.assign(new URL(server.url), { password: 'guessed' }).href }, 'SELECT 1'), { code: '28P01' })
    assert.equal(statSync(server.passwordFile).mode & 0o777, 0o600)
    assert.equal(readFileSync(server.passwordFile, 'utf8'), `127.0.0.1:*:*:postgres:${new URL(server.url).password}\n`)
    if (!root) return
    const stranger = (file: string): string => spawnSync('cat', [file], { uid: 12_345, gid: 12_345, encoding: 'utf8', cwd: '/', env: { LC_ALL: 'C' } }).stderr
    assert.equal(stranger(join(dataDir, 'postgres.log')), '', 'the folder itself is open to all')
    assert.match(stranger(server.passwordFile), /Permission denied/)
  } finally {
    await server.close()
  }
})

test('a folder without a password gets one before it listens again, and keeps its data', async () => {
  const open = folder()
  await using({ dataDir: open }, (server) => query(server, "CREATE TABLE kept AS SELECT 'six' AS text"))
  rmSync(join(open, 'pgpass'))
  writeFileSync(join(open, 'cluster/pg_hba.conf'), 'host all all 127.0.0.1/32 trust\n')
  await using({ dataDir: open }, async (server) => {
    assert.deepEqual(await query(server, 'SELECT text FROM kept'), ['six'])
    await assert.rejects(query({ url: withoutPassword(server.url) }, 'SELECT 1'), /password/)
  })
  rmSync(join(open, 'cluster'), { recursive: true })
  await using({ dataDir: open }, async (server) => assert.deepEqual(await query(server, 'SELECT 1'), [1], 'a cluster that was deleted is made anew'))
})

test('closing twice is fine, exited settles without an error and the folder is free', async () => {
  const server = await startEmbeddedPostgres({ dataDir })
  await Promise.all([server.close(), server.close()])
  assert.equal(await server.exited, undefined)
  assert.equal(startIdOf(server.pid), undefined)
  await using({ dataDir }, async () => {})
})

test('a folder held by another live process is refused with its pid; one held by this process too', async () => {
  const { app } = await application(dataDir)
  try {
    await assert.rejects(startEmbeddedPostgres({ dataDir }), {
      code: 'ERR_EMBEDDED_POSTGRES_HELD',
      message: `The data folder ${dataDir} is held by pid ${app.pid}: stop that process, or set DATA_DIR to another folder`,
    })
  } finally {
    app.kill('SIGINT')
    await app.exited
  }
  await using({ dataDir }, () => assert.rejects(startEmbeddedPostgres({ dataDir }), { code: 'ERR_EMBEDDED_POSTGRES_HELD' }))
})

test('of three that start at once exactly one gets the folder', async () => {
  const apps = [1, 2, 3].map(() => startProgram(fixture, { args: [dataDir] }))
  try {
    const said = await Promise.all(apps.map((app) => app.line(/^(ready|failed) /)))
    assert.deepEqual(
      said
        .map((line) =>
          line
            .split(' ')
            .slice(0, line.startsWith('failed') ? 2 : 1)
            .join(' '),
        )
        .sort(),
      ['failed ERR_EMBEDDED_POSTGRES_HELD', 'failed ERR_EMBEDDED_POSTGRES_HELD', 'ready'],
    )
  } finally {
    apps.forEach((app) => app.kill('SIGINT'))
    await Promise.all(apps.map((app) => app.exited))
  }
})

test('after kill -9 of the application its server lives on; the next start stops it and has all that was committed', async () => {
  const { app, pid, url } = await application(dataDir)
  await query({ url }, "CREATE TABLE orphaned AS SELECT 'two' AS text")
  await app.close()
  assert.notEqual(startIdOf(pid), undefined)
  await using({ dataDir }, async (server) => {
    assert.equal(startIdOf(pid), undefined)
    assert.deepEqual(await query(server, 'SELECT text FROM orphaned'), ['two'])
  })
})

test('a server left behind that stands still (SIGSTOP) is stopped all the same', async () => {
  const { app, pid } = await application(dataDir)
  await app.close()
  process.kill(pid, 'SIGSTOP')
  await using({ dataDir }, async () => assert.equal(startIdOf(pid), undefined))
})

test('a killed server comes back on the same port by crash recovery while the application runs', async () => {
  const told: string[] = []
  const note = (_: object, text: string): void => void told.push(text)
  await using({ dataDir, logger: { info: note, warn: note } }, async (server) => {
    await query(server, "CREATE TABLE crashed AS SELECT 'three' AS text")
    const { pid, port } = server
    process.kill(pid, 'SIGKILL')
    await waitUntil(() => server.pid !== pid && told.length === 2)
    assert.deepEqual(await query(server, 'SELECT text FROM crashed'), ['three'])
    assert.equal(server.port, port)
    assert.deepEqual(told, ['PostgreSQL stopped, starting it again', 'PostgreSQL is back'])
  })
})

test('kill -9 of the application in the middle of its first start: the next one makes a cluster of its own beside what still runs', async () => {
  const young = folder()
  const app = startProgram(fixture, { args: [young] })
  // Or made already, where this process was slow to look.
  await waitUntil(() => readdirSync(young).some((name) => name.startsWith('cluster') && existsSync(join(young, name, 'base'))))
  await app.close()
  await using({ dataDir: young }, async (server) => assert.deepEqual(await query(server, 'SELECT 1'), [1]))
  assert.equal(
    readdirSync(young).some((name) => name.startsWith('cluster.new')),
    false,
  )
})

test('application and server killed together: the next start recovers', async () => {
  const { app, pid, url } = await application(dataDir)
  await query({ url }, "CREATE TABLE both_killed AS SELECT 'four' AS text")
  app.kill('SIGKILL')
  process.kill(pid, 'SIGKILL')
  await app.exited
  await using({ dataDir }, async (server) => assert.deepEqual(await query(server, 'SELECT text FROM both_killed'), ['four']))
})

test('pids that other processes got meanwhile hold nothing', async () => {
  const bystander = asProgram(spawn('sleep', ['600'], { stdio: 'pipe' }), 'sleep')
  try {
    const pidFile = `${bystander.pid}\n${dataDir}/cluster\n1700000000\n5432\n\n127.0.0.1\n  1234567         0\nready   \n`
    writeFileSync(join(dataDir, 'cluster/postmaster.pid'), pidFile)
    writeFileSync(join(dataDir, `owner-${bystander.pid}.json`), JSON.stringify({ pid: bystander.pid, startId: 'another life', state: 'holding' }))
    await using({ dataDir }, async (server) => assert.deepEqual(await query(server, 'SELECT 1'), [1]))
    assert.notEqual(startIdOf(bystander.pid), undefined, 'the bystander was left alone')
  } finally {
    await bystander.close()
  }
})

test('Ctrl-C reaches the application and not its server, which serves it to the end', async () => {
  // A process group of its own stands for the terminal's foreground group.
  const child = spawn(process.execPath, ['--conditions=@core-backend/source', fixture, dataDir], {
    detached: true,
    stdio: 'pipe',
    env: { ...process.env, NODE_TEST_CONTEXT: undefined },
  })
  const app = asProgram(child, 'fixture')
  const pid = Number((await app.line(/^ready /)).split(' ')[1])
  process.kill(-app.pid, 'SIGINT')
  await app.line(/^still served$/)
  assert.deepEqual(await app.exited, { code: 0, signal: null })
  assert.equal(startIdOf(pid), undefined)
})

test('an application that exits without a close takes its server with it', async () => {
  const { app, pid } = await application(dataDir)
  app.write('exit\n')
  await app.exited
  await waitUntil(() => startIdOf(pid) === undefined)
})

test('a busy port is one clear line', async () => {
  const other = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => other.once('listening', resolve))
  const { port } = other.address() as { port: number }
  try {
    await assert.rejects(startEmbeddedPostgres({ dataDir, port }), { code: 'ERR_EMBEDDED_POSTGRES_PORT', message: `Port ${port} on 127.0.0.1 is in use` })
  } finally {
    other.close()
  }
  const free = await freePort()
  await using({ dataDir, port: free }, async (server) => assert.equal(server.port, free))
})

test('a folder that cannot be one, a bad setting and a missing platform are one clear line each', async () => {
  const file = join(folder(), 'file')
  writeFileSync(file, '')
  await assert.rejects(startEmbeddedPostgres({ dataDir: file }), {
    code: 'ERR_EMBEDDED_POSTGRES_FOLDER',
    message: `Cannot write to the data folder ${file}: part of its path is a file, set DATA_DIR to another folder`,
  })
  await assert.rejects(startEmbeddedPostgres({ dataDir, settings: { no_such_setting: '1' } }), {
    code: 'ERR_EMBEDDED_POSTGRES_START',
    message: /^PostgreSQL did not start: .*no_such_setting[^\n]*$/,
  })
  const arch = Object.getOwnPropertyDescriptor(process, 'arch')!
  Object.defineProperty(process, 'arch', { ...arch, value: 'mips' })
  try {
    await assert.rejects(startEmbeddedPostgres({ dataDir }), { code: 'ERR_EMBEDDED_POSTGRES_BINARY', message: /@embedded-postgres\/\w+-mips/ })
  } finally {
    Object.defineProperty(process, 'arch', arch)
  }
})

test('an aborted start leaves no server and no claim', async () => {
  await assert.rejects(startEmbeddedPostgres({ dataDir, signal: AbortSignal.abort(new Error('enough')) }), { message: 'enough' })
  await using({ dataDir }, async () => {})
})

test('a read-only folder is one clear line for an ordinary user', { skip: !root && 'needs root to become somebody else' }, async () => {
  const app = startProgram(fixture, { args: [folder()], uid: 65_534, gid: 65_534 })
  assert.match(
    await app.line(/^(ready|failed) /),
    /^failed ERR_EMBEDDED_POSTGRES_FOLDER Cannot write to the data folder \S+: this user may not, set DATA_DIR to another folder$/,
  )
  await app.exited
})

test(
  'as root the server is root to itself alone, or else nobody: by whether another user could reach the folder',
  { skip: !root && 'needs root' },
  async () => {
    const folderOfRoot = folder(0o700)
    const userOf = ({ pid }: EmbeddedPostgres): string | undefined => /^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    await using({ dataDir: folderOfRoot }, async (server) => {
      await query(server, "CREATE TABLE moved AS SELECT 'five' AS text")
      assert.equal(userOf(server), '0')
    })
    chmodSync(folderOfRoot, 0o755)
    await using({ dataDir: folderOfRoot }, async (server) => {
      assert.deepEqual(await query(server, 'SELECT text FROM moved'), ['five'])
      assert.equal(userOf(server), '65534')
    })
  },
)

test(
  'an ordinary user runs the server directly; root later runs it in the name of that user, who can then start again',
  { skip: !root && 'needs root' },
  async () => {
    const user = { uid: 12_345, gid: 12_345 }
    const home = folder()
    chownSync(home, user.uid, user.gid)
    for (const who of [user, {}, user]) {
      const app = startProgram(fixture, { args: [home], ...who })
      assert.match(await app.line(/^(ready|failed) /), /^ready /)
      app.kill('SIGINT')
      assert.deepEqual(await app.exited, { code: 0, signal: null })
    }
  },
)

test("what root starts first in the closed home of another user is that user's, who can start it too", { skip: !root && 'needs root' }, async () => {
  const user = { uid: 12_345, gid: 12_345 }
  const home = folder(0o700)
  chownSync(home, user.uid, user.gid)
  for (const who of [{}, user]) {
    const app = startProgram(fixture, { args: [join(home, 'clone/.data')], ...who })
    assert.match(await app.line(/^(ready|failed) /), /^ready /)
    app.kill('SIGINT')
    assert.deepEqual(await app.exited, { code: 0, signal: null })
  }
})

test('root without user namespaces: programs that the server cannot reach are copied beside the data', { skip: !root && 'needs root' }, async () => {
  const unreachable = folder(0o700)
  const copied = join(unreachable, 'native')
  cpSync(programsOfNpm(), copied, { recursive: true, verbatimSymlinks: true })
  const path = process.env['PATH']
  process.env['PATH'] = '/nonexistent'
  try {
    await using({ dataDir: folder(), programs: copied }, async (server) => assert.deepEqual(await query(server, 'SELECT 1'), [1]))
    await assert.rejects(startEmbeddedPostgres({ dataDir: folder(0o700) }), { code: 'ERR_EMBEDDED_POSTGRES_FOLDER', message: /cannot reach the data folder/ })
  } finally {
    process.env['PATH'] = path
  }
})
