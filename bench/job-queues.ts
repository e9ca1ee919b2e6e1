// The job queues on PostgreSQL that suites measure against, from a suite's own folder of pinned versions.
import { createRequire } from 'node:module'
import { join } from 'node:path'

export interface Boss {
  start(): Promise<unknown>
  createQueue(name: string): Promise<void>
  send(name: string, data: object, options?: object): Promise<string | null>
  insert(name: string, jobs: object[]): Promise<unknown>
  fetch(name: string, options: { batchSize: number }): Promise<{ id: string }[]>
  complete(name: string, ids: string[]): Promise<unknown>
  work(name: string, options: object, handler: (jobs: { data: { id: string } }[]) => Promise<void>): Promise<string>
}
/** Started, with the queue `bench`. */
export async function boss(peers: string, url: string): Promise<Boss> {
  const require = createRequire(join(peers, 'package.json'))
  const { PgBoss } = (await import(require.resolve('pg-boss'))) as { PgBoss: new (options: object) => Boss }
  const made = new PgBoss({ connectionString: url, max: 10, supervise: false, schedule: false })
  await made.start()
  await made.createQueue('bench')
  return made
}

export interface Graphile {
  makeWorkerUtils(
    options: object,
  ): Promise<{ migrate(): Promise<void>; addJob(name: string, payload: object, spec?: object): Promise<unknown>; addJobs(jobs: object[]): Promise<unknown> }>
  run(options: { taskList: Record<string, (payload: unknown) => unknown>; [option: string]: unknown }): Promise<{ stop(): Promise<void> }>
}
export const graphile = async (peers: string): Promise<Graphile> =>
  (await import(createRequire(join(peers, 'package.json')).resolve('graphile-worker'))) as Graphile
const nothing = (): void => undefined
export const quiet: { logger: object } = { logger: { error: nothing, warn: nothing, info: nothing, debug: nothing, scope: () => quiet.logger } }
