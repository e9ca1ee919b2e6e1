import { connect, type Socket } from 'node:net'
import { uuidv7 } from '@core-backend/internal/uuid'
import { tenants } from './world.ts'

/** One keep-alive connection with one request under way. It does next to nothing, since it shares the machine with what it measures. */
export interface Connection {
  /** Posts another activity, under a key of its own. Gives the activity's id; rejects for whatever is not a 201. */
  post(): Promise<string>
  close(): void
}

const types = ['running', 'cycling', 'swimming', 'walking', 'hiking', 'yoga', 'strength', 'other']
const titles = ['Morning run', 'Evening ride', 'Lunch break laps', 'Round the lake', 'Long way home']
const pick = <T>(list: readonly T[]): T => list.at(Math.floor(Math.random() * list.length))!
const upTo = (n: number): number => Math.floor(Math.random() * n)

/** Of 300 users in three tenants, in the last thirty days. */
function activity(): string {
  return JSON.stringify({
    userId: 1 + upTo(100),
    type: pick(types),
    title: pick(titles),
    durationMinutes: 10 + upTo(120),
    distanceKm: upTo(20_000) / 1_000,
    caloriesBurned: upTo(1_000),
    notes: 'Felt good, a bit of wind on the way back; new shoes.',
    activityDate: new Date(Date.now() - upTo(30) * 86_400_000).toISOString().slice(0, 10),
  })
}

export async function open(url: string): Promise<Connection> {
  const { hostname, port, host } = new URL(url)
  const socket: Socket = connect({ host: hostname, port: Number(port), noDelay: true })
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
  let waiting: { resolve(id: string): void; reject(error: Error): void } | undefined
  let got = ''
  const fail = (error: Error): void => {
    waiting?.reject(error)
    waiting = undefined
  }
  socket.setEncoding('latin1')
  socket.on('error', fail)
  socket.on('close', () => fail(new Error('The service closed the connection')))
  socket.on('data', (text: string) => {
    got += text
    const body = got.indexOf('\r\n\r\n') + 4
    if (body === 3) return
    const length = Number(/\r\ncontent-length: (\d+)/i.exec(got)?.[1] ?? Number.NaN)
    if (Number.isNaN(length)) fail(new Error(`An answer without content-length:\n${got}`))
    if (got.length < body + length) return
    const answer = got
    got = ''
    if (!answer.startsWith('HTTP/1.1 201 ')) return fail(new Error(`Not a 201:\n${answer}`))
    waiting?.resolve(answer.slice(body + 7, body + 43)) // after {"id":"
    waiting = undefined
  })
  const head = `POST /activities HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\nx-tenant-id: `
  return {
    post: () =>
      new Promise((resolve, reject) => {
        if (socket.closed) return reject(new Error('The service has closed the connection'))
        waiting = { resolve, reject }
        const text = activity()
        socket.write(`${head}${pick(tenants)}\r\nidempotency-key: ${uuidv7()}\r\ncontent-length: ${text.length}\r\n\r\n${text}`)
      }),
    close: () => socket.destroy(),
  }
}
