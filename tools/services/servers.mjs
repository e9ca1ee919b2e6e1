// The servers that tests can use, one uniform entry each: how to ask it, how to start what is installed, how to get what is not.
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import * as probes from './probes.mjs'

/**
 * An entry: `port` the usual one, `url(port)`, `probe(port)` to its version, `debian` the packages that bring it, `programs()` the paths that it needs (an entry
 * that is undefined is not installed), and `start({ port, dir, addresses })`, which prepares `dir` and tells the commands to run there: `{ command, env?, uid? }`.
 */
export const servers = [
  {
    name: 'postgres',
    port: 5432,
    url: (port) => `postgres://postgres@127.0.0.1:${port}/postgres`,
    probe: probes.postgres,
    debian: ['postgresql'],
    programs: () => [newest('/usr/lib/postgresql', 'bin/postgres')],
    start({ port, dir }) {
      const bin = join(newest('/usr/lib/postgresql', 'bin/postgres'), '..')
      const user = unprivileged(dir)
      const data = join(dir, 'data')
      if (!existsSync(data)) user.run([join(bin, 'initdb'), '-D', data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--no-locale'])
      const settings = ['listen_addresses=127.0.0.1', `port=${port}`, 'unix_socket_directories=', 'max_connections=200', 'timezone=UTC'].flatMap((s) => [
        '-c',
        s,
      ])
      return [user.command([join(bin, 'postgres'), '-D', data, ...settings])]
    },
  },
  {
    name: 'pgbouncer',
    port: 6432,
    url: (port) => `postgres://postgres@127.0.0.1:${port}/postgres`,
    probe: probes.pgbouncer,
    debian: ['pgbouncer'],
    programs: () => [program('pgbouncer')],
    start({ port, dir, addresses }) {
      const behind = addresses.find((s) => s.name === 'postgres' && s.url)
      if (!behind) throw new Error('needs a PostgreSQL server behind it')
      const user = unprivileged(dir)
      const ini = join(dir, 'pgbouncer.ini')
      // Debian's 1.18 in transaction mode: no prepared statements; `*` makes every database of the server behind reachable.
      writeFileSync(
        ini,
        `[databases]\n* = host=127.0.0.1 port=${new URL(behind.url).port} user=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port=${port}\nunix_socket_dir=\nauth_type=any\n` +
          'pool_mode=transaction\nmax_client_conn=500\ndefault_pool_size=20\nserver_idle_timeout=5\nautodb_idle_timeout=30\nignore_startup_parameters=extra_float_digits\n',
      )
      return [user.command([program('pgbouncer'), ini])]
    },
  },
  {
    name: 'redis',
    port: 6379,
    url: (port) => `redis://127.0.0.1:${port}`,
    probe: probes.redis,
    debian: ['redis-server'],
    programs: () => [program('redis-server')],
    start: ({ port, dir }) => [
      {
        command: [
          program('redis-server'),
          '--bind',
          '127.0.0.1',
          '--port',
          `${port}`,
          '--dir',
          dir,
          '--save',
          '',
          '--appendonly',
          'yes',
          '--appendfsync',
          'everysec',
        ],
      },
    ],
  },
  {
    name: 'rabbitmq',
    port: 5672,
    url: (port) => `amqp://guest:guest@127.0.0.1:${port}`,
    probe: probes.rabbitmq,
    debian: ['rabbitmq-server'],
    programs: () => [existing('/usr/lib/rabbitmq/bin/rabbitmq-server'), program('epmd')],
    start({ port, dir }) {
      // A port mapper of its own: the one of Erlang would listen everywhere and outlive the node.
      const epmd = { ERL_EPMD_ADDRESS: '127.0.0.1', ERL_EPMD_PORT: `${port + 15_000}` }
      writeFileSync(join(dir, 'rabbitmq.conf'), `listeners.tcp.1 = 127.0.0.1:${port}\n`)
      writeFileSync(join(dir, 'enabled_plugins'), '[].\n')
      const env = {
        ...epmd,
        HOME: dir,
        RABBITMQ_NODENAME: `cbtest${port}@localhost`,
        RABBITMQ_DIST_PORT: `${port + 20_000}`,
        RABBITMQ_CONFIG_FILE: join(dir, 'rabbitmq.conf'),
        RABBITMQ_CONF_ENV_FILE: join(dir, 'none'),
        RABBITMQ_ENABLED_PLUGINS_FILE: join(dir, 'enabled_plugins'),
        RABBITMQ_MNESIA_BASE: join(dir, 'data'),
        RABBITMQ_LOG_BASE: join(dir, 'logs'),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
      }
      return [
        { command: [program('epmd')], env: epmd },
        { command: ['/usr/lib/rabbitmq/bin/rabbitmq-server'], env },
      ]
    },
  },
  {
    name: 'nats',
    port: 4222,
    url: (port) => `nats://127.0.0.1:${port}`,
    probe: probes.nats,
    debian: ['nats-server'],
    programs: () => [program('nats-server')],
    start: ({ port, dir }) => [{ command: [program('nats-server'), '-a', '127.0.0.1', '-p', `${port}`, '-js', '-sd', join(dir, 'data')] }],
  },
  {
    name: 'kafka',
    port: 9092,
    url: (port) => `kafka://127.0.0.1:${port}`,
    probe: probes.kafka,
    debian: ['maven', 'default-jre-headless'],
    programs: () => [program('mvn'), java(17)],
    start({ port, dir }) {
      const jars = fetched('kafka', (into) =>
        maven(['-f', join(import.meta.dirname, 'kafka.pom.xml'), 'dependency:copy-dependencies', '-DincludeScope=runtime', `-DoutputDirectory=${into}`]),
      )
      const run = [java(17), '-Xms256m', '-Xmx768m', '-cp', `${jars}/*`]
      const config = join(dir, 'server.properties')
      writeFileSync(config, kafkaProperties(port, dir))
      if (!existsSync(join(dir, 'data', 'meta.properties'))) {
        const id = execFileSync(run[0], [...run.slice(1), 'kafka.tools.StorageTool', 'random-uuid'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
        execFileSync(run[0], [...run.slice(1), 'kafka.tools.StorageTool', 'format', '-t', id.trim().split('\n').at(-1), '-c', config], { stdio: 'pipe' })
      }
      return [{ command: [...run, 'kafka.Kafka', config] }]
    },
  },
  {
    name: 'schema-registry',
    port: 8081,
    url: (port) => `http://127.0.0.1:${port}/apis/ccompat/v7`,
    probe: probes.schemaRegistry,
    debian: ['maven', 'default-jre-headless'],
    programs: () => [program('mvn'), java(17)],
    start({ port }) {
      // 3.x needs Java 21.
      const version = java(21) ? '3.3.3' : '2.6.13.Final'
      const folder = fetched(`apicurio-${version}`, (into) => {
        const copy = 'org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy'
        maven([copy, `-Dartifact=io.apicurio:apicurio-registry-app:${version}:tar.gz:all`, `-DoutputDirectory=${into}`])
        const [archive] = readdirSync(into)
        execFileSync('tar', ['xzf', archive], { cwd: into })
        rmSync(join(into, archive))
      })
      const jar = readdirSync(folder).find((name) => name === 'quarkus-run.jar' || name.endsWith('runner.jar'))
      return [
        {
          command: [
            java(21) ?? java(17),
            '-Xmx512m',
            '-Dquarkus.http.host=127.0.0.1',
            `-Dquarkus.http.port=${port}`,
            '-Dquarkus.management.host=127.0.0.1',
            `-Dquarkus.management.port=${port + 1_000}`,
            '-jar',
            join(folder, jar),
          ],
        },
      ]
    },
  },
]

/** One node, KRaft. Consumers of KIP-848 are missed after 6 s instead of 45, so that tests of take-over are short. */
function kafkaProperties(port, dir) {
  const one = ['default.replication.factor', 'min.insync.replicas', 'offsets.topic.replication.factor', 'transaction.state.log.replication.factor']
  one.push('transaction.state.log.min.isr', 'share.coordinator.state.topic.replication.factor', 'share.coordinator.state.topic.min.isr')
  return `process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${port + 1}
advertised.listeners=PLAINTEXT://127.0.0.1:${port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:${port + 1}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=${join(dir, 'data')}
${one.map((name) => `${name}=1`).join('\n')}
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
num.partitions=4
group.initial.rebalance.delay.ms=0
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=1000
group.consumer.heartbeat.interval.ms=1000
group.consumer.min.heartbeat.interval.ms=500
auto.create.topics.enable=false
log.retention.hours=24
`
}

/** What is downloaded is kept beside other caches of the user, whole or not at all. */
function fetched(name, download) {
  const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'core-backend')
  const folder = join(cache, name)
  if (existsSync(folder)) return folder
  mkdirSync(cache, { recursive: true })
  const part = mkdtempSync(`${folder}.`)
  try {
    download(part)
    renameSync(part, folder)
  } finally {
    rmSync(part, { recursive: true, force: true })
  }
  return folder
}

function maven(args) {
  execFileSync('mvn', ['-q', '-B', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
}

/** PostgreSQL and pgbouncer refuse to be root: there they run in a user namespace, where their files stay root's, else as nobody. */
function unprivileged(dir) {
  if (process.getuid?.() !== 0) return { command: (command) => ({ command }), run: ([file, ...args]) => execFileSync(file, args, { stdio: 'pipe' }) }
  const namespace = ['unshare', '--user', '--map-user=65534', '--map-group=65534']
  if (spawnSync(namespace[0], [...namespace.slice(1), 'true']).status === 0) {
    return {
      command: (command) => ({ command: [...namespace, ...command] }),
      run: (command) => execFileSync(namespace[0], [...namespace.slice(1), ...command], { stdio: 'pipe' }),
    }
  }
  const nobody = { uid: 65_534, gid: 65_534 }
  chownSync(dir, nobody.uid, nobody.gid)
  chmodSync(dir, 0o700)
  return { command: (command) => ({ command, ...nobody }), run: ([file, ...args]) => execFileSync(file, args, { ...nobody, cwd: '/', stdio: 'pipe' }) }
}

function existing(path) {
  return existsSync(path) ? path : undefined
}

/** Debian keeps servers in /usr/sbin, which is not on every user's path. */
function program(name) {
  return [...(process.env.PATH ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin'].map((folder) => join(folder, name)).find((path) => existsSync(path))
}

/** `/base/<version>/<path>` of the highest version. */
function newest(base, path) {
  const versions = existsSync(base) ? readdirSync(base).filter((v) => existsSync(join(base, v, path))) : []
  const [highest] = versions.sort((a, b) => Number(b) - Number(a))
  return highest && join(base, highest, path)
}

/** A Java of at least that version: JAVA_HOME's, the highest under /usr/lib/jvm, the path's. */
function java(atLeast) {
  const homes = existsSync('/usr/lib/jvm') ? readdirSync('/usr/lib/jvm').map((name) => join('/usr/lib/jvm', name)) : []
  const found = [process.env.JAVA_HOME, ...homes].filter((home) => home && existsSync(join(home, 'bin/java'))).map((home) => join(home, 'bin/java'))
  return [...found, program('java')].find((path) => path && javaVersion(path) >= atLeast)
}

const javaVersions = new Map()
function javaVersion(path) {
  if (!javaVersions.has(path)) javaVersions.set(path, Number(/version "(\d+)/.exec(spawnSync(path, ['-version'], { encoding: 'utf8' }).stderr)?.[1] ?? 0))
  return javaVersions.get(path)
}
