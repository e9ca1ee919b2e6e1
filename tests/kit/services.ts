import { spawnSync } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'

/** A server that tests may use, as `scripts/services status --json` reports it. */
export interface Service {
  name: string
  /** Where it answers; absent when it does not. */
  url?: string
  version?: string
  /** Why it is not to be used: not there, or it refuses the test login. */
  reason?: string
}

/** Names that `skipUnless` takes. `postgres15` is the server called `postgres`: whichever version the machine has. */
export type ServiceName = 'postgres' | 'postgres15' | 'pgbouncer' | 'redis' | 'rabbitmq' | 'nats' | 'kafka' | 'schema-registry'

let known: Service[] | undefined

/** Every server, asked once a process; the runner asks for all of its files and says so in `TEST_SERVICES`. */
export function services(): Service[] {
  return (known ??= JSON.parse(process.env['TEST_SERVICES'] ?? ask()) as Service[])
}

/** Tells the runner that a test used a server, for its table at the end. */
export function noteCovered(name: string, version: string): void {
  const file = process.env['TEST_COVERED']
  if (file !== undefined) appendFileSync(file, `${JSON.stringify([name, version])}\n`)
}

function ask(): string {
  const script = join(import.meta.dirname, '../../tools/services/main.mjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, 'status', '--json'], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`scripts/services status failed: ${stderr}`)
  return stdout
}

function find(name: ServiceName): Service {
  const wanted = name === 'postgres15' ? 'postgres' : name
  return services().find((s) => s.name === wanted) ?? { name: wanted, reason: 'unknown server' }
}

/** The address of a server; throws when it is not to be had. */
export function serviceUrl(name: ServiceName): string {
  const { url, reason } = find(name)
  if (url === undefined) throw new Error(`No ${name}: ${reason}`)
  return url
}

/**
 * For node:test's `skip`: `false` when the server can be used, else the reason.
 * Under `REQUIRE_SERVICES=all` (or a list of names) nothing is skipped: a missing server is then a failure that names it.
 */
export function skipUnless(name: ServiceName): false | string {
  const { name: server, url, version, reason } = find(name)
  if (url !== undefined) {
    noteCovered(server, version ?? '')
    return false
  }
  const required = process.env['REQUIRE_SERVICES']?.split(',') ?? []
  if (required.includes('all') || required.includes(name)) throw new Error(`REQUIRE_SERVICES: ${name} is not covered: ${reason}`)
  return `${name}: ${reason}`
}
