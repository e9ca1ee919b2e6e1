import { readSettings, type Settings, SettingsError, type SettingsFault, type Variable } from '@core-backend/internal/settings'
import { parseBrokerUrl } from '@core-backend/messaging'
import { isTenantName } from '../domain/tenant.ts'

/** Everything that can be set, as environment variables. */
export const variables = {
  host: { name: 'HOST', type: 'string', default: '127.0.0.1', about: 'Address to listen on' },
  port: { name: 'PORT', type: 'integer', default: '8080', min: 0, max: 65_535, about: 'Port to listen on; 0 takes a free one' },
  dataDir: { name: 'DATA_DIR', type: 'string', default: '.data', about: 'Folder of the embedded PostgreSQL' },
  tenants: { name: 'TENANTS', type: 'list', default: 'acme,globex,initech', about: 'Tenants; their schemas are made at start' },
  logLevel: {
    name: 'LOG_LEVEL',
    type: 'oneOf',
    values: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    default: 'info',
    about: 'Least severe level that is logged',
  },
  role: {
    name: 'ROLE',
    type: 'oneOf',
    values: ['all', 'api', 'relay', 'worker'],
    default: 'all',
    about: 'What this process does',
  },
  brokerUrl: {
    name: 'BROKER_URL',
    type: 'url',
    secret: true,
    about: 'Message broker; without it the database carries the messages too. `memory:` forgets what a crash interrupts',
  },
  databaseUrl: {
    name: 'DATABASE_URL',
    type: 'url',
    secret: true,
    about: 'PostgreSQL 15 or later, not behind a pooler in transaction mode; without it one is started in `DATA_DIR`',
  },
  environment: { name: 'ENVIRONMENT', type: 'string', default: 'development', about: 'Written to every log line' },
} as const

/** As `--help` and the README show them. */
export const variableTable: readonly { readonly name: string; readonly value: string; readonly about: string }[] = Object.values<Variable>(variables).map(
  ({ name, default: value = '', about, values }) => ({ name, value, about: values ? `${about}: ${values.map((one) => `\`${one}\``).join(', ')}` : about }),
)

export type ActivelogSettings = Settings<typeof variables> & {
  /** Where the process listens; absent for a relay or worker whose `PORT` is not set. */
  readonly listen: { readonly host: string; readonly port: number } | undefined
}

const code = 'ERR_ACTIVELOG_SETTINGS'

/** Reads and checks the environment; opens nothing. Throws `SettingsError` with every fault. */
export function fromEnv(env: Record<string, string | undefined> = process.env): ActivelogSettings {
  const settings = readSettings(variables, code, env)
  const { role, tenants, databaseUrl, brokerUrl, host, port } = settings
  const faults: SettingsFault[] = []
  const fault = (variable: string, value: string, allowed: string): void => void faults.push({ variable, value, allowed })
  if (tenants.length === 0) fault('TENANTS', JSON.stringify(env['TENANTS']), 'at least one name')
  for (const name of new Set(tenants))
    if (!isTenantName(name)) fault('TENANTS', JSON.stringify(name), 'names of 1 to 40 of a-z 0-9 _ -, beginning with a letter')
  if (databaseUrl !== undefined && !(isPostgres(databaseUrl) && URL.canParse(databaseUrl))) fault('DATABASE_URL', `${protocolOf(databaseUrl)}***`, postgresUrl)
  if (brokerUrl !== undefined && !isBrokerUrl(brokerUrl)) fault('BROKER_URL', `${protocolOf(brokerUrl)}***`, `memory: or ${postgresUrl}`)
  if (role !== 'all') {
    if (databaseUrl === undefined) fault('DATABASE_URL', '(not set)', `needed by ROLE=${role}: processes share one database`)
    if (brokerUrl !== undefined && protocolOf(brokerUrl) === 'memory:') fault('BROKER_URL', 'memory:', `ROLE=${role} needs a broker that processes can share`)
  }
  if (faults.length > 0) throw new SettingsError(code, faults)
  const listens = role === 'all' || role === 'api' || (env['PORT'] ?? '') !== ''
  return Object.freeze({ ...settings, tenants: [...new Set(tenants)], listen: listens ? { host, port } : undefined })
}

const postgresUrl = 'postgres://user:password@host:port/database'

const protocolOf = (url: string): string => url.slice(0, url.indexOf(':') + 1).toLowerCase()

const isPostgres = (url: string): boolean => /^postgres(ql)?:$/.test(protocolOf(url))

/** It may be one without a host, for a unix socket, which `URL` does not take. */
function isBrokerUrl(url: string): boolean {
  try {
    parseBrokerUrl(url)
    return protocolOf(url) === 'memory:' || isPostgres(url)
  } catch {
    return false
  }
}
