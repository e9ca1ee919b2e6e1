import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fromEnv, variableTable } from './settings.ts'

const faultsOf = (env: Record<string, string>): string[] => {
  try {
    fromEnv(env)
  } catch (error) {
    assert.equal((error as { code: string }).code, 'ERR_ACTIVELOG_SETTINGS')
    assert.doesNotMatch((error as Error).message, /\n|secret/)
    return (error as { faults: { variable: string }[] }).faults.map(({ variable }) => variable)
  }
  return []
}

test('without any variable everything is set', () => {
  assert.deepEqual(fromEnv({}), {
    host: '127.0.0.1',
    port: 8080,
    dataDir: '.data',
    tenants: ['acme', 'globex', 'initech'],
    logLevel: 'info',
    role: 'all',
    brokerUrl: undefined,
    databaseUrl: undefined,
    environment: 'development',
    listen: { host: '127.0.0.1', port: 8080 },
  })
})

test('a bad value is told by its variable, all of them at once, no password in it', () => {
  assert.deepEqual(faultsOf({ PORT: 'abc', LOG_LEVEL: 'loud' }), ['PORT', 'LOG_LEVEL'])
  assert.deepEqual(faultsOf({ PORT: '65536' }), ['PORT'])
  assert.deepEqual(faultsOf({ ROLE: 'boss' }), ['ROLE'])
  assert.deepEqual(faultsOf({ TENANTS: ',' }), ['TENANTS'])
  assert.deepEqual(faultsOf({ TENANTS: `acme,a"; DROP SCHEMA public; --` }), ['TENANTS'])
  assert.deepEqual(faultsOf({ TENANTS: 'Acme' }), ['TENANTS'])
  assert.deepEqual(faultsOf({ DATABASE_URL: 'mysql://u:secret@h/d' }), ['DATABASE_URL'])
  assert.deepEqual(faultsOf({ DATABASE_URL: 'postgres://u:secret@h:port/d' }), ['DATABASE_URL'])
})

test('a URL of another kind is told by its scheme and what there is, no more of it', () => {
  assert.throws(() => fromEnv({ DATABASE_URL: 'mysql://u:secret@h/d', BROKER_URL: 'amqp://u:secret@h' }), {
    code: 'ERR_ACTIVELOG_SETTINGS',
    message:
      'Bad settings: DATABASE_URL=mysql:*** (postgres://user:password@host:port/database); BROKER_URL=amqp:*** (memory: or postgres://user:password@host:port/database)',
  })
  assert.deepEqual(faultsOf({ BROKER_URL: 'postgres://u:secret@h:port/d' }), ['BROKER_URL'])
  assert.deepEqual(faultsOf({ BROKER_URL: 'PostgreSQL://u:secret@/d?host=/run' }), [])
})

test('a role of several needs what processes can share', () => {
  assert.deepEqual(faultsOf({ ROLE: 'api' }), ['DATABASE_URL'])
  assert.deepEqual(faultsOf({ ROLE: 'worker', BROKER_URL: 'memory:' }), ['DATABASE_URL', 'BROKER_URL'])
  assert.deepEqual(faultsOf({ ROLE: 'relay', DATABASE_URL: 'postgres://h/d' }), [])
  assert.deepEqual(faultsOf({ ROLE: 'all', BROKER_URL: 'memory:' }), [])
})

test('a relay or a worker listens only where its port is set, so that several fit on one machine', () => {
  const env = { DATABASE_URL: 'postgres://h/d' }
  assert.equal(fromEnv({ ...env, ROLE: 'worker' }).listen, undefined)
  assert.deepEqual(fromEnv({ ...env, ROLE: 'worker', PORT: '9000' }).listen, { host: '127.0.0.1', port: 9000 })
  assert.deepEqual(fromEnv({ ...env, ROLE: 'api' }).listen, { host: '127.0.0.1', port: 8080 })
})

test('the README has exactly these variables, with their defaults and meanings', () => {
  const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8')
  const rows = variableTable.map(({ name, value, about }) => `| \`${name}\` | ${value && `\`${value}\` `}| ${about} |`)
  assert.deepEqual(/^\| variable .*\n.*\n((?:\|.*\n)+)/m.exec(readme)?.[1]?.trimEnd().split('\n'), rows)
})
