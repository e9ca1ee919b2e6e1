// Group X of the conformance list, on PostgreSQL. A scenario plays on a stage, does its harm, and gives what must be judged besides loss, order and duplicates.
// Waits are for what the processes write down; only how long a trouble lasts is a time.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Program } from '@core-backend/testkit/processes'
import { type TcpProxy, tcpProxy } from '@core-backend/testkit/tcp-proxy'
import pg from 'pg'
import { monotonic } from './messaging-journal.ts'
import type { Verdict } from './messaging-judge.ts'
import { group, type Stage, topic } from './messaging-stage.ts'

export interface Scenario {
  readonly name: string
  readonly partitions?: number
  /** Belongs to the short run, which takes `quick` times the faults. */
  readonly quick?: number
  /** `share` of the faults that a full run has. */
  play(stage: Stage, share: number): Promise<Verdict>
}

const times = (n: number, share: number): number => Math.max(1, Math.round(n * share))
const also = (verdict: Verdict, failures: readonly (string | false)[]): Verdict => ({
  ...verdict,
  failures: [...verdict.failures, ...failures.filter((failure) => failure !== false)],
})

const killed: Scenario = {
  name: 'X1 SIGKILL of members at random points, 10 % of runs fail',
  quick: 0.25,
  play: async (stage, share) => {
    const kills = times(20, share)
    const crew = await stage.crew(4, { failing: 0.1 })
    stage.publish()
    for (let n = 0; n < kills; n++) {
      await stage.progress(100 + Math.random() * 300)
      crew.kill()
    }
    await stage.settled()
    return stage.verdict()
  },
}

const beforeAck: Scenario = {
  name: 'X2 SIGKILL between effect and ack, with an inbox',
  quick: 0.5,
  play: async (stage, share) => {
    await stage.crew(4, { fatal: 0.01, failing: 0.05 })
    stage.publish({ count: times(1_200, share), perSecond: 200 })
    await stage.settled()
    const verdict = await stage.verdict()
    const [effects] = await stage.admin.query<{ n: number; ids: number }>('SELECT count(*)::int AS n, count(DISTINCT id)::int AS ids FROM chaos.effects')
    const [tries] = await stage.admin.query<{ again: number }>('SELECT (count(*) - count(DISTINCT id))::int AS again FROM chaos.tries')
    const { n, ids } = effects!
    return also(verdict, [
      n !== ids && `${n} effects of ${ids} messages: some happened twice`,
      ids !== verdict.handled && `${ids} messages had their effect, ${verdict.handled} were handled`,
      tries!.again < verdict.faults && `only ${tries!.again} effects were tried again after ${verdict.faults} kills: the harm was not done`,
    ])
  },
}

const zombie: Scenario = {
  name: 'X4 SIGSTOP past the lease, then SIGCONT',
  quick: 0.34,
  play: async (stage, share) => {
    const failures: string[] = []
    const crew = await stage.crew(3, { slowEvery: 100, slowMs: 4_000, concurrency: 16 })
    const stops = times(3, share)
    stage.publish({ perSecond: 200 })
    for (let n = 0; n < stops; n++) {
      await stage.progress(200)
      const member = [...crew.members].find((one) => stage.holding(one).length > 0)!
      const since = monotonic()
      await stage.until('the member has a slow handler at work', () =>
        stage.entries().some((entry) => entry.e === 'start' && entry.slow && entry.pid === member.pid && entry.at > since),
      )
      stage.fault(member.pid)
      member.kill('SIGSTOP')
      const from = monotonic()
      await stage.until('others took its partitions over', () => stage.holding(member).length === 0)
      await stage.progress(100)
      member.kill('SIGCONT')
      const heard = (e: 'lost' | 'aborted' | 'refused') => (): boolean =>
        stage.entries().some((entry) => entry.e === e && entry.pid === member.pid && entry.at > from)
      for (const e of ['lost', 'aborted', 'refused'] as const)
        await stage.until(`the zombie notes "${e}"`, heard(e), 20_000).catch((error: Error) => failures.push(error.message))
    }
    await stage.settled()
    return also(await stage.verdict(), failures)
  },
}

const serverWhile = (what: 'publish' | 'consume' | 'ack', quick?: number): Scenario => ({
  name: `X5 server SIGKILL during ${what}`,
  ...(quick === undefined ? {} : { quick }),
  play: async (stage, share) => {
    const kills = times(4, share)
    if (what === 'publish') {
      const before = (): number => stage.count('published')
      stage.publish({ perSecond: 1_500 })
      for (let n = 0; n < kills; n++) {
        const from = before()
        await stage.until('more was confirmed', () => before() > from + 500 + Math.random() * 1_000)
        await stage.killServer()
      }
      await stage.crew(3, { handlerMs: 2, concurrency: 32, leaseMs: 3_000 })
    } else {
      await stage.crew(3, { leaseMs: 3_000, ...(what === 'ack' ? { flushMs: 1, handlerMs: 4 } : {}) })
      stage.publish({ statementMs: 2_000 })
      for (let n = 0; n < kills; n++) {
        await stage.progress(300 + Math.random() * 300)
        await stage.killServer()
      }
    }
    await stage.settled()
    return stage.verdict()
  },
})

/** Two members and the publisher behind a proxy, one member beside it, which takes over what they lose. */
const proxied = (
  name: string,
  trouble: (proxy: TcpProxy, stage: Stage, round: number) => Promise<void>,
  options: { rounds?: number; leaseMs?: number; quick?: number } = {},
): Scenario => ({
  name: `X6 ${name}`,
  ...(options.quick === undefined ? {} : { quick: options.quick }),
  play: async (stage, share) => {
    const { rounds = 3, leaseMs = 2_000 } = options
    const proxy = await tcpProxy(stage.server.port)
    try {
      const through = { url: stage.urlAt(proxy.port), statementMs: 2_000 }
      const behind = await stage.crew(2, { ...through, leaseMs })
      await stage.crew(1, { leaseMs })
      const turns = times(rounds, share)
      stage.publish(through)
      for (let n = 0; n < turns; n++) {
        await stage.progress(200)
        for (const { pid } of behind.members) stage.fault(pid)
        await trouble(proxy, stage, n)
        proxy.pass()
      }
      await stage.settled()
      return await stage.verdict()
    } finally {
      await proxy.close()
    }
  },
})

/** Longer than a lease and a statement's deadline: the members are zombies when their words arrive. */
const stallMs = 4_000
const halfOpen = (direction: 'toServer' | 'toClient', quick?: number): Scenario =>
  proxied(
    `half-open, nothing reaches the ${direction === 'toServer' ? 'server' : 'clients'} for ${stallMs / 1_000} s`,
    async (proxy) => {
      proxy.stall(direction)
      await sleep(stallMs)
    },
    { rounds: 2, ...(quick === undefined ? {} : { quick }) },
  )

/** Whoever consumes is told, with a typed error; and what is published afterwards is handled by who subscribes then. */
const deleted = (what: 'group' | 'topic', quick?: number): Scenario => ({
  name: `X9 ${what} deleted while it is consumed`,
  ...(quick === undefined ? {} : { quick }),
  play: async (stage) => {
    const failures: string[] = []
    const first = await stage.crew(2)
    stage.publish({ count: 600, perSecond: 600 })
    await stage.progress(200)
    stage.fault()
    const from = monotonic()
    if (what === 'group') await stage.broker.deleteGroup(topic, group)
    else await stage.broker.deleteTopic(topic)
    await Promise.all([...first.members].map((member) => told(stage, member, from).catch((error: Error) => failures.push(error.message))))
    await first.close()
    const again = monotonic()
    await stage.crew(2)
    stage.publish({ count: 300, perSecond: 600 })
    await stage.settled()
    return also(await stage.verdict({ from: again }), failures)
  },
})

async function told(stage: Stage, member: Program, from: number): Promise<void> {
  const heard = (): boolean =>
    stage
      .entries()
      .some(
        (entry) =>
          entry.pid === member.pid &&
          entry.at > from &&
          ((entry.e === 'error' && entry.code === 'ERR_MESSAGING_TOPIC_NOT_FOUND') || (entry.e === 'done' && entry.fetchedAt > from + 5_000)),
      )
  await stage.until(`member ${member.pid} reports that what it consumes is gone, or goes on`, heard, 30_000)
  member.write('health\n')
  const health = await member.line(/^health/)
  if (health === 'health ok ') throw new Error(`Member ${member.pid} says it is well although what it consumes is gone`)
}

const rebalance: Scenario = {
  name: 'X10 members 1 to 8 to 1 under load, some handlers outlast two leases',
  partitions: 8,
  play: async (stage) => {
    const crew = await stage.crew(1, { slowEvery: 200, slowMs: 3_000 })
    stage.publish()
    await stage.progress(300)
    for (const to of [8, 1, 8, 1]) {
      stage.fault()
      await (to === 8 ? crew.grow(to) : crew.shrink(to))
      await stage.progress(600)
    }
    await stage.settled()
    return stage.verdict()
  },
}

const blocked: Scenario = {
  name: 'X11 event loop blocked for three heartbeats, then for two leases',
  play: async (stage) => {
    const leaseMs = 2_000
    const crew = await stage.crew(3, { leaseMs })
    stage.publish()
    for (const ms of [(leaseMs / 4) * 3, leaseMs * 2, (leaseMs / 4) * 3, leaseMs * 2]) {
      await stage.progress(200)
      const member = [...crew.members].find((one) => stage.holding(one).length > 0)!
      stage.fault(member.pid)
      member.write(`block ${ms}\n`)
      await stage.progress(400)
    }
    await stage.settled()
    return stage.verdict()
  },
}

const openTransaction: Scenario = {
  name: 'X14 a long write transaction elsewhere in the cluster, and kills',
  play: async (stage) => {
    const other = new pg.Client({ connectionString: stage.server.url })
    await other.connect()
    await other.query('CREATE TABLE IF NOT EXISTS unrelated (n integer)')
    await other.query('BEGIN')
    await other.query('INSERT INTO unrelated VALUES (1)')
    const { rows: own } = await other.query('SELECT pg_backend_pid() AS pid')
    const crew = await stage.crew(3)
    stage.publish()
    for (let n = 0; n < 3; n++) {
      await stage.progress(500)
      crew.kill()
    }
    await stage.settled()
    const verdict = await stage.verdict()
    // As the server sees it: a transaction that had ended would have proved nothing.
    const held = await stage.admin.query("SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'idle in transaction' AND backend_xid IS NOT NULL", [
      own[0].pid,
    ])
    await other.query('ROLLBACK')
    await other.end()
    return also(verdict, [held.length === 0 && 'the transaction did not stay open'])
  },
}

const terminated: Scenario = {
  name: 'X14 pg_terminate_backend of every connection, again and again',
  play: async (stage) => {
    await stage.crew(3, { leaseMs: 3_000, failing: 0.05 })
    stage.publish()
    for (let n = 0; n < 25; n++) {
      await stage.progress(Math.random() * 100)
      stage.fault()
      await stage.admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'chaos'")
      await sleep(50 + Math.random() * 300)
    }
    await stage.settled()
    return stage.verdict()
  },
}

const poisoned: Scenario = {
  name: 'X16 a message that kills the process',
  quick: 1,
  play: async (stage) => {
    const poison = 'p0/300'
    await stage.crew(3, { poison, leaseMs: 1_000 })
    stage.publish({ name: 'p', keys: 1, count: 400, perSecond: 200 })
    stage.publish({ count: 2_000, perSecond: 250 })
    await stage.settled()
    const verdict = await stage.verdict({ letters: [poison] })
    const starts = stage.entries().filter((entry) => entry.e === 'start' && entry.id === poison).length
    return also(verdict, [starts > 4 && `the poison was started ${starts} times, 4 are enough to know it`])
  },
}

export const scenarios: readonly Scenario[] = [
  killed,
  beforeAck,
  zombie,
  serverWhile('publish'),
  serverWhile('consume', 0.5),
  serverWhile('ack'),
  proxied('connections cut, and none made for a second', async (proxy) => {
    proxy.refuse()
    await sleep(1_000)
  }),
  halfOpen('toServer', 0.5),
  halfOpen('toClient'),
  proxied(
    '500 ms latency each way for 8 s, the lease of 10 s that is the default',
    async (proxy) => {
      proxy.delay(500)
      await sleep(8_000)
    },
    { rounds: 1, leaseMs: 10_000 },
  ),
  proxied(
    'connections reset during publish',
    async (proxy, stage) => {
      for (let n = 0; n < 10; n++) {
        const from = stage.count('published')
        await stage.until('something more was published', () => stage.count('published') > from + Math.random() * 60)
        proxy.reset()
      }
    },
    { rounds: 2 },
  ),
  deleted('group', 1),
  deleted('topic'),
  rebalance,
  blocked,
  openTransaction,
  terminated,
  poisoned,
]
