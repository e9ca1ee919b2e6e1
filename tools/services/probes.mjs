// Asks a server in its own protocol whether it takes the documented test login, and for its version. No dependency: it also runs before `npm ci`, on any Node.
// Each probe resolves to the version or throws an Error that says why the server is not to be used.
import { connect } from 'node:net'

/** Connects, writes what `talk` yields and feeds it what arrives, until it returns. */
async function converse(port, talk) {
  const socket = connect({ host: '127.0.0.1', port }).setTimeout(3_000, () => socket.destroy(new Error(`no answer on port ${port} within 3 s`)))
  try {
    const lines = talk()
    let buffer = Buffer.alloc(0)
    let step = lines.next(buffer)
    if (step.value) socket.write(step.value)
    for await (const chunk of socket) {
      buffer = Buffer.concat([buffer, chunk])
      // The generator takes the whole buffer each time and yields what to send, or nothing while it waits for more.
      step = lines.next(buffer)
      if (step.done) return step.value
      if (step.value) {
        socket.write(step.value)
        buffer = Buffer.alloc(0)
      }
    }
    throw new Error('closed the connection')
  } catch (error) {
    throw error.code === 'ECONNREFUSED' ? new Error(`nothing answers on port ${port}`) : error
  } finally {
    socket.destroy()
  }
}

/** `version` is what the server calls itself; `config`, for pgbouncer's console, the answer of SHOW CONFIG. */
function postgresLogin(port, database, query) {
  return converse(port, function* () {
    const words = Buffer.from(`user\0postgres\0database\0${database}\0\0`)
    const head = Buffer.alloc(8)
    head.writeInt32BE(words.length + 8, 0)
    head.writeInt32BE(196_608, 4)
    let data = yield Buffer.concat([head, words])
    let version
    for (let asked = false; ;) {
      const rows = []
      let ready = false
      for (const { type, body } of messages(data)) {
        if (type === 'E') throw new Error(`refuses the test login: ${/\0M([^\0]*)/.exec(`\0${body}`)?.[1]}`)
        if (type === 'R' && body.readInt32BE(0) !== 0) throw new Error('refuses the test login: it wants a password')
        if (type === 'S' && body.toString().startsWith('server_version\0')) version = body.toString().split('\0')[1]
        if (type === 'D') rows.push(columns(body))
        if (type === 'Z') ready = true
      }
      if (ready && (asked || !query)) return { version, rows }
      if (ready) {
        asked = true
        const text = Buffer.from(`${query}\0`)
        const q = Buffer.alloc(5, 'Q')
        q.writeInt32BE(text.length + 4, 1)
        data = yield Buffer.concat([q, text])
      } else data = yield
    }
  })
}

function* messages(data) {
  for (let at = 0; at + 5 <= data.length;) {
    const end = at + 1 + data.readInt32BE(at + 1)
    if (end > data.length) return
    yield { type: String.fromCharCode(data[at]), body: data.subarray(at + 5, end) }
    at = end
  }
}

function columns(body) {
  const values = []
  for (let at = 2, n = body.readInt16BE(0); n > 0; n--) {
    const length = body.readInt32BE(at)
    values.push(length < 0 ? null : body.toString('utf8', at + 4, at + 4 + length))
    at += 4 + Math.max(length, 0)
  }
  return values
}

export async function postgres(port) {
  return (await postgresLogin(port, 'postgres')).version.split(' ')[0]
}

export async function pgbouncer(port) {
  await postgres(port)
  const { version, rows } = await postgresLogin(port, 'pgbouncer', 'SHOW CONFIG')
  const mode = rows.find(([name]) => name === 'pool_mode')?.[1]
  if (mode !== 'transaction') throw new Error(`its pool_mode is ${mode}, not transaction`)
  return version.split('/')[0]
}

export function redis(port) {
  return converse(port, function* () {
    let data = yield Buffer.from('INFO server\r\n')
    for (;;) {
      const text = data.toString()
      if (text.startsWith('-')) throw new Error(`refuses the test login: ${text.trim()}`)
      const version = /redis_version:(\S+)/.exec(text)
      if (version) return version[1]
      data = yield
    }
  })
}

export function nats(port) {
  return converse(port, function* () {
    let data = yield
    while (!data.includes('\r\n')) data = yield
    const info = JSON.parse(
      data
        .toString()
        .replace(/^INFO /, '')
        .split('\r\n')[0],
    )
    if (!info.jetstream) throw new Error('JetStream is off')
    data = yield Buffer.from('CONNECT {"verbose":false}\r\nPING\r\n')
    for (;;) {
      if (data.includes('-ERR')) throw new Error(`refuses the test login: ${data.toString().trim()}`)
      if (data.includes('PONG')) return info.version
      data = yield
    }
  })
}

/** AMQP 0-9-1: Connection.Start, Start-Ok with guest/guest, then Tune when the login was good. */
export function rabbitmq(port) {
  return converse(port, function* () {
    let data = yield Buffer.from('AMQP\0\0\x09\x01', 'latin1')
    while (data.length < 7 || data.length < data.readUInt32BE(3) + 8) data = yield
    const version = /version\S....([0-9.]+)/s.exec(data.toString('latin1'))?.[1] ?? 'unknown'
    const text = (s, n) => Buffer.concat([n === 1 ? Buffer.from([s.length]) : Buffer.from([0, 0, 0, s.length]), Buffer.from(s)])
    const method = Buffer.concat([Buffer.from([0, 10, 0, 11, 0, 0, 0, 0]), text('PLAIN', 1), text('\0guest\0guest', 4), text('en_US', 1)])
    const frame = Buffer.from([1, 0, 0, 0, 0, 0, method.length])
    data = yield Buffer.concat([frame, method, Buffer.from([0xce])])
    while (data.length < 11) data = yield
    if (data.readUInt16BE(7) !== 10 || data.readUInt16BE(9) !== 30) throw new Error('refuses the test login guest')
    return version
  })
}

/** ApiVersions 3 (KIP-584): the finalized feature metadata.version tells the release, 4.1 being level 27. */
export function kafka(port) {
  return converse(port, function* () {
    const body = Buffer.concat([
      Buffer.from([0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0]),
      Buffer.from([5]),
      Buffer.from('test'),
      Buffer.from([2]),
      Buffer.from('1'),
      Buffer.from([0]),
    ])
    const size = Buffer.alloc(4)
    size.writeInt32BE(body.length)
    let data = yield Buffer.concat([size, body])
    while (data.length < 4 || data.length < data.readInt32BE(0) + 4) data = yield
    if (data.readInt32BE(4) !== 1 || data.readInt16BE(8) !== 0) throw new Error('does not speak the Kafka protocol')
    const levels = [...data.toString('latin1').matchAll(/metadata\.version(.)(.)/gs)].map((m) => m[2].charCodeAt(0) - 0)
    return releases.get(Math.max(...levels)) ?? (levels.length > 0 ? `metadata ${Math.max(...levels)}` : 'unknown')
  })
}
const releases = new Map([
  [25, '4.0'],
  [27, '4.1'],
])

export async function schemaRegistry(port) {
  const get = async (path) => {
    const response = await fetch(`http://127.0.0.1:${port}/apis/${path}`, { signal: AbortSignal.timeout(3_000) }).catch(() => {
      throw new Error(`nothing answers on port ${port}`)
    })
    return response.ok ? response.json() : Promise.reject(new Error(`answers ${response.status} to /apis/${path}`))
  }
  await get('ccompat/v7/subjects')
  return (await get('registry/v3/system/info').catch(() => get('registry/v2/system/info'))).version
}
