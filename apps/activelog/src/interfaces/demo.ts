import { setTimeout as sleep } from 'node:timers/promises'
import { uuidv7 } from '@core-backend/internal/uuid'
import { type Activity, activityTypes, dayOf } from '../domain/activity.ts'
import type { Progress } from '../infrastructure/progress.ts'
import type { Activelog } from './command.ts'

const pauseMs = 80
const drainMs = 15_000

/** Plays three tenants' traffic over HTTP until `signal` aborts, then waits for the last event and adds up. */
export async function playDemo(activelog: Activelog, tenants: readonly string[], signal: AbortSignal): Promise<void> {
  // What an earlier run left behind is none of this one's.
  for (let { pending } = await activelog.progress(uuidv7()); pending > 0 && !signal.aborted; { pending } = await activelog.progress(uuidv7()))
    await sleep(200, undefined, { signal }).catch(() => {})
  const sinceId = uuidv7()
  const { deadLettered: before } = await activelog.progress(sinceId)
  const count = async (): Promise<Progress> => {
    const progress = await activelog.progress(sinceId)
    return { ...progress, deadLettered: progress.deadLettered - before }
  }
  const ended = new AbortController()
  const watching = watch(count, AbortSignal.any([signal, ended.signal]))
  await Promise.all(tenants.slice(0, 3).map((tenant) => traffic(activelog.url!, tenant, signal)))
  ended.abort()
  await watching

  let progress = await count()
  for (const until = performance.now() + drainMs; !addsUp(progress) || (progress.pending > 0 && performance.now() < until); progress = await count()) {
    if (performance.now() > until) break
    await sleep(100)
  }
  const { posted, handled, deadLettered, pending } = progress
  console.log(`posted ${posted} ${addsUp(progress) ? '=' : 'is not'} handled ${handled} + dead-lettered ${deadLettered} + pending ${pending}`)
}

const addsUp = ({ posted, handled, deadLettered, pending }: Progress): boolean => posted === handled + deadLettered + pending

/** One line that is written over and over on a terminal; elsewhere a line every few seconds. */
async function watch(count: () => Promise<Progress>, signal: AbortSignal): Promise<void> {
  const live = process.stdout.isTTY
  while (!signal.aborted) {
    await sleep(live ? 250 : 3_000, undefined, { signal }).catch(() => {})
    const line = await count().then(
      ({ posted, published, handled, deadLettered }) => `posted ${posted}  published ${published}  handled ${handled}  dead-lettered ${deadLettered}`,
      () => 'the database is away',
    )
    if (live) process.stdout.write(`\r\u001B[2K${line}`)
    else console.log(line)
  }
  if (live) process.stdout.write('\n')
}

/** Mostly new activities, now and then a correction or a deletion. */
async function traffic(url: string, tenant: string, signal: AbortSignal): Promise<void> {
  const recent: string[] = []
  while (!signal.aborted) {
    const chance = Math.random()
    const id = recent[Math.floor(Math.random() * recent.length)]
    if (id !== undefined && chance < 0.04) {
      await send(url, tenant, 'DELETE', `/activities/${id}`)
      recent.splice(recent.indexOf(id), 1)
    } else if (id !== undefined && chance < 0.12) await send(url, tenant, 'PATCH', `/activities/${id}`, { durationMinutes: between(10, 120) })
    else {
      const activity = await send(url, tenant, 'POST', '/activities', randomActivity(), uuidv7())
      if (activity) recent.push(activity.id)
      if (recent.length > 50) recent.shift()
    }
    await sleep(pauseMs * Math.random() * 2, undefined, { signal }).catch(() => {})
  }
}

/** Asks again until answered: the key makes a repeated POST the same one, and a repeated PATCH or DELETE does no harm. */
async function send(url: string, tenant: string, method: string, path: string, body?: object, key?: string): Promise<Activity | undefined> {
  const headers = { 'x-tenant-id': tenant, 'content-type': 'application/json', ...(key !== undefined && { 'idempotency-key': key }) }
  for (;;) {
    try {
      const response = await fetch(url + path, { method, headers, ...(body && { body: JSON.stringify(body) }) })
      const text = await response.text()
      if (response.status < 500 && response.status !== 409) return response.ok && text !== '' ? (JSON.parse(text) as Activity) : undefined
    } catch {
      // No answer at all: the same as a 503.
    }
    await sleep(200)
  }
}

function randomActivity(): object {
  const type = activityTypes[between(0, activityTypes.length - 1)]!
  return {
    userId: between(1, 20),
    type,
    title: `A bit of ${type}`,
    durationMinutes: between(10, 260),
    distanceKm: between(0, 50_000) / 1_000,
    activityDate: dayOf(new Date(), -between(0, 30)),
  }
}

const between = (min: number, max: number): number => min + Math.floor(Math.random() * (max - min + 1))
