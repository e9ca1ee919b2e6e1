import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { asProgram, type Program, startProgram } from '@core-backend/testkit/processes'
import { waitUntil } from '@core-backend/testkit/wait-until'
import { startEmbeddedPostgres } from '../embedded-postgres.ts'
import { startIdOf } from './claim.ts'
import { startFailure } from './error.ts'

const fixture = join(import.meta.dirname, '../embedded-postgres.fixture.ts')
const dataDir = mkdtempSync(join(tmpdir(), 'cbtest-embedded-'))
chmodSync(dataDir, 0o755)
after(() => rmSync(dataDir, { recursive: true, force: true }))

/** The application of the fixture, and the pids of its server, the postmaster's first: all of them stand still. */
async function frozen(): Promise<{ app: Program; server: number[] }> {
  const app = startProgram(fixture, { args: [dataDir] })
  const postmaster = Number((await app.line(/^(ready|failed) /)).split(' ')[1])
  process.kill(postmaster, 'SIGSTOP')
  const { stdout } = spawnSync('ps', ['-axo', 'ppid=,pid='], { encoding: 'utf8' })
  const children = [...stdout.matchAll(/(\d+) +(\d+)/g)].flatMap(([, parent, pid]) => (Number(parent) === postmaster ? [Number(pid)] : []))
  assert.ok(children.length > 3, `PostgreSQL has processes: ${children.join(' ')}`)
  children.forEach((pid) => process.kill(pid, 'SIGSTOP'))
  return { app, server: [postmaster, ...children] }
}

const alive = (pids: readonly number[]): number[] => pids.filter((pid) => startIdOf(pid) !== undefined)

/** Whatever a test found, nothing that stands still outlives it. */
function end(pids: readonly number[]): void {
  for (const pid of alive(pids)) process.kill(pid, 'SIGKILL')
}

test('a server left behind, all of which stands still, ends with all its processes at the next start', async () => {
  const { app, server } = await frozen()
  try {
    await app.close()
    await using _ = await startEmbeddedPostgres({ dataDir })
    assert.deepEqual(alive(server), [])
  } finally {
    end(server)
  }
})

test(
  'processes that outlived their postmaster, because they stand still, do not keep the next one from starting',
  { skip: process.platform !== 'linux' && 'only Linux tells whose they were' },
  async () => {
    const { app, server } = await frozen()
    try {
      await app.close()
      process.kill(server[0]!, 'SIGKILL')
      await using _ = await startEmbeddedPostgres({ dataDir })
      assert.deepEqual(alive(server), [])
    } finally {
      end(server)
    }
  },
)

test('an application that exits without a close takes its server with it, although all of it stands still', async () => {
  const { app, server } = await frozen()
  try {
    app.write('exit\n')
    await app.exited
    await waitUntil(() => alive(server).length === 0)
  } finally {
    end(server)
  }
})

test('a start says what it waits for when the server left behind takes its time', async () => {
  await (await startEmbeddedPostgres({ dataDir })).close()
  const cluster = join(dataDir, 'cluster')
  // Stands for a postmaster that does not stop: it ends only once the line is told.
  const stubborn = asProgram(
    spawn(process.execPath, ['-e', `process.on('SIGINT', () => {}); console.log('up'); setInterval(() => {}, 1e9)`, '--', '-D', cluster, 'last']),
    'stubborn',
  )
  try {
    await stubborn.line(/^up$/)
    writeFileSync(join(cluster, 'postmaster.pid'), `${stubborn.pid}\n${cluster}\n`)
    const told: [object, string][] = []
    const logger = {
      info: () => {},
      warn: (fields: object, text: string): void => {
        told.push([fields, text])
        stubborn.kill('SIGKILL')
      },
    }
    await using _ = await startEmbeddedPostgres({ dataDir, logger })
    assert.deepEqual(told, [[{ pid: stubborn.pid }, 'Waits for the PostgreSQL that an earlier run left behind to stop']])
  } finally {
    await stubborn.close()
  }
})

test('a folder that is no whole cluster is one line that says what to do', async () => {
  const broken = mkdtempSync(join(tmpdir(), 'cbtest-embedded-'))
  chmodSync(broken, 0o755)
  const cluster = join(broken, 'cluster')
  mkdirSync(cluster, { mode: 0o700 })
  try {
    writeFileSync(join(cluster, 'PG_VERSION'), '18\n')
    await assert.rejects(startEmbeddedPostgres({ dataDir: broken }), {
      code: 'ERR_EMBEDDED_POSTGRES_START',
      message: /^PostgreSQL did not start: [^\n]*postgresql\.conf[^\n]*: set DATA_DIR to another folder, or move \S+\/cluster away$/,
    })
  } finally {
    rmSync(broken, { recursive: true, force: true })
  }
})

test('a start that fails because something else uses the cluster names what that is', () => {
  const log = '2026-01-15 08:00:00 UTC [7] FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use\nHINT:  Terminate any old server processes'
  const said = 'PostgreSQL did not start: pre-existing shared memory block (key 1, ID 2) is still in use'
  assert.equal(startFailure(log, { cluster: '/data/cluster', holders: [3, 4] }).message, `${said}: end what is left of an earlier server, pid 3 4`)
  assert.equal(startFailure(log, { cluster: '/data/cluster', holders: [] }).message, `${said}: end the processes of PostgreSQL that still use /data/cluster`)
})
