import { type Clock, systemClock } from '@core-backend/internal/clock'
import { uuidv7 } from '@core-backend/internal/uuid'
import { type Activity, activityTypes, dayOf } from '../domain/activity.ts'
import type { Progress } from '../infrastructure/progress.ts'
import type { Activelog } from './command.ts'

const pauseMs = 80
/** Patience with events that are on their way, and with a database that is away. */
const drainMs = 15_000

export interface DemoOptions {
  clock?: Clock
  /** @default console.log */
  print?: (line: string) => void
}

/** Plays three tenants' traffic over HTTP until `signal` aborts, then waits for the last event and adds up. Rejects when it cannot count. */
export async function playDemo(
  { url, progress }: Pick<Activelog, 'url' | 'progress'>,
  tenants: readonly string[],
  signal: AbortSignal,
  { clock = systemClock, print = console.log }: DemoOptions = {},
): Promise<void> {
  const counted = async (sinceId: string, until: number, stop?: AbortSignal): Promise<Progress> => {
    for (;;) {
      try {
        return await progress(sinceId)
      } catch (error) {
        if (clock.monotonic() >= until) throw error
        await clock.sleep(200, { signal: stop }).catch(() => {
          throw error
        })
      }
    }
  }

  // What an earlier run left behind is none of this one's; what stays, as an event that cannot be published, does not count either.
  const earlier = clock.monotonic() + drainMs
  let before: Progress
  try {
    before = await counted(uuidv7(), earlier, signal)
    const { pending: left } = before
    if (left > 0) print(`Waits up to ${drainMs / 1_000} s for ${left} ${left === 1 ? 'event' : 'events'} of before`)
    while (before.pending > 0 && clock.monotonic() < earlier && !signal.aborted) {
      await clock.sleep(200, { signal }).catch(() => {})
      before = await counted(uuidv7(), earlier, signal)
    }
  } catch (error) {
    if (signal.aborted) return // nothing was played
    throw error
  }
  const sinceId = uuidv7()
  /** What is too many can only be of before, and only as many as were left then: these are taken for pending still, or else for dead-lettered meanwhile. */
  const since = ({ posted, handled, deadLettered, unpublished, pending }: Progress): Progress => {
    const dead = deadLettered - before.deadLettered
    const old = Math.max(0, Math.min(handled + dead + pending - posted, before.pending))
    const waiting = Math.min(old, pending)
    return {
      posted,
      handled,
      deadLettered: dead - Math.max(0, Math.min(old - waiting, dead)),
      unpublished: unpublished - before.unpublished,
      pending: pending - waiting,
    }
  }

  const ended = new AbortController()
  const playing = AbortSignal.any([signal, ended.signal])
  const watching = watch(() => progress(sinceId).then(since), playing, clock, print)
  try {
    await Promise.all(tenants.slice(0, 3).map((tenant) => traffic(url!, tenant, playing, clock)))
  } finally {
    ended.abort()
    await watching
  }

  const until = clock.monotonic() + drainMs
  let sum = since(await counted(sinceId, until))
  while ((!addsUp(sum) || sum.pending > 0) && clock.monotonic() < until) {
    await clock.sleep(100)
    sum = since(await counted(sinceId, until))
  }
  const { posted, handled, deadLettered, pending } = sum
  print(`posted ${posted} ${addsUp(sum) ? '=' : 'is not'} handled ${handled} + dead-lettered ${deadLettered} + pending ${pending}`)
}

const addsUp = ({ posted, handled, deadLettered, pending }: Progress): boolean => posted === handled + deadLettered + pending

/** One line that is written over and over on a terminal; elsewhere a line every few seconds. */
async function watch(count: () => Promise<Progress>, signal: AbortSignal, clock: Clock, print: (line: string) => void): Promise<void> {
  const live = process.stdout.isTTY
  while (!signal.aborted) {
    await clock.sleep(live ? 250 : 3_000, { signal }).catch(() => {})
    const line = await count().then(
      ({ posted, unpublished, handled, deadLettered }) => {
        // They are counted one after the other: what has been handled meanwhile was published, and what was published was posted.
        const published = Math.min(posted, Math.max(handled, posted - unpublished))
        return `posted ${posted}  published ${published}  handled ${Math.min(handled, published)}  dead-lettered ${deadLettered}`
      },
      () => 'the database is away',
    )
    if (live) process.stdout.write(`\r\u001B[2K${line}`)
    else print(line)
  }
  if (live) process.stdout.write('\n')
}

/** Mostly new activities, now and then a correction or a deletion. */
async function traffic(url: string, tenant: string, signal: AbortSignal, clock: Clock): Promise<void> {
  const recent: string[] = []
  const send = (method: string, path: string, body?: object, key?: string): Promise<Activity | undefined> =>
    sendTo(url + path, tenant, signal, clock, { method, ...(body && { body: JSON.stringify(body) }) }, key)
  while (!signal.aborted) {
    const chance = Math.random()
    const id = recent[Math.floor(Math.random() * recent.length)]
    if (id !== undefined && chance < 0.04) {
      await send('DELETE', `/activities/${id}`)
      recent.splice(recent.indexOf(id), 1)
    } else if (id !== undefined && chance < 0.12) await send('PATCH', `/activities/${id}`, { durationMinutes: between(10, 120) })
    else {
      const activity = await send('POST', '/activities', randomActivity(), uuidv7())
      if (activity) recent.push(activity.id)
      if (recent.length > 50) recent.shift()
    }
    await clock.sleep(pauseMs * Math.random() * 2, { signal }).catch(() => {})
  }
}

/** Asks again until answered or stopped: the key makes a repeated POST the same one, and a repeated PATCH or DELETE does no harm. */
async function sendTo(url: string, tenant: string, signal: AbortSignal, clock: Clock, request: RequestInit, key?: string): Promise<Activity | undefined> {
  const headers = { 'x-tenant-id': tenant, 'content-type': 'application/json', ...(key !== undefined && { 'idempotency-key': key }) }
  while (!signal.aborted) {
    try {
      const response = await fetch(url, { ...request, headers })
      const text = await response.text()
      if (response.status < 500 && response.status !== 409) return response.ok && text !== '' ? (JSON.parse(text) as Activity) : undefined
    } catch {
      // No answer at all: the same as a 503.
    }
    await clock.sleep(200, { signal }).catch(() => {})
  }
  return undefined
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
