import type { Clock } from '#internal/clock'
import { type Check, checkOptions, shown } from '#internal/options'
import type { BrokerDriver, LogEntry, Mark, OutgoingMessage, TopicLog } from './driver.ts'
import { isRetryable } from './errors.ts'
import { asLetter, type DeadLetter, markOf } from './letter.ts'
import { checkHeaders, deadLetterTopic, retryTopic } from './names.ts'
import { discardChecks, listChecks, replayChecks } from './options.ts'
import type { Publisher } from './publisher.ts'
import type { Topology } from './topology.ts'
import { copyOf, header, originHeaders } from './wire.ts'

/** Which letters to list. */
export interface ListOptions {
  /** The `next` of the page before. */
  after?: string | undefined
  /** @default 50 */
  limit?: number | undefined
  /** Runs in this process, over at most `scan` letters a page. */
  filter?: ((letter: DeadLetter) => boolean) | undefined
  /** @default 1_000 */
  scan?: number | undefined
}

/** Some letters, in the order of the log. */
export interface LetterPage {
  readonly letters: readonly DeadLetter[]
  /** Where to go on; absent at the end. */
  readonly next: string | undefined
}

/** Which letters to send again, and how. */
export interface ReplayOptions {
  ids?: readonly string[] | undefined
  filter?: ((letter: DeadLetter) => boolean) | undefined
  /** @default 'oldest' */
  order?: 'oldest' | 'newest' | undefined
  /** Of letters sent, or that would be: those left alone by `maxReplays`, replayed elsewhere, or failed by themselves, don't count. @default all */
  limit?: number | undefined
  ratePerSecond?: number | undefined
  /** Says what would be done, `edit` included, and does nothing. */
  dryRun?: boolean | undefined
  /** A letter replayed this often already is left alone. @default 3 */
  maxReplays?: number | undefined
  /** Mends the message, which must be one that could be published; the original stays in the log, marked. A letter at which it throws has `failed`, and the others go on. */
  edit?: ((letter: DeadLetter) => Mended | Promise<Mended>) | undefined
  signal?: AbortSignal | undefined
}

/** What is to change in a message before it is sent again; the rest stays as it is. */
export interface Mended {
  value?: Uint8Array | undefined
  /** Instead of all that it has. */
  headers?: Readonly<Record<string, string>> | undefined
  key?: string | undefined
}

/** What became of one letter. */
export interface ReplayOutcome {
  readonly letterId: string
  /**
   * `failed` may be tried again: nothing was lost. `replayed` with an `error` was sent but could not be marked: it stays in the list, and a broker that
   * deduplicates drops a second replay within its window. `replayed-elsewhere` was sent by another replay after this one had chosen it.
   */
  readonly outcome: 'replayed' | 'replayed-elsewhere' | 'would-replay' | 'too-many-replays' | 'failed' | 'not-found'
  readonly error?: unknown
}

/** The dead letters of one group on one topic: a log that is read without consuming, some megabytes at a time, and marks. */
export interface DeadLetters {
  /** Reads every letter, its body too. */
  count(): Promise<number>
  /**
   * Reads the marks, and the log from `after` on until the page is full: what was replayed is passed over, not found by an index. Of the copies that a crash may leave of one
   * letter a page shows the first; where pages meet, each may show one, with the same `letterId`.
   */
  list(options?: ListOptions): Promise<LetterPage>
  /** Reads the log up to the letter. */
  get(letterId: string): Promise<DeadLetter | undefined>
  /**
   * Publishes letters to the group's private source, for this group alone, and marks each. Needs `ids` or `filter`, reads every letter for either, holds where those it chose stand,
   * and reads them again to send them. Another process may go on where one stopped, or help: what one has marked, the others see about a second later. What two send within
   * that second is stored once by a broker that deduplicates; on others it may come twice.
   */
  replay(options: ReplayOptions): Promise<readonly ReplayOutcome[]>
  /** Ends letters, replayed ones too: their storage is freed where the broker can. Gives the ids that were there. Needs `ids` or `filter`, and reads every letter for either. */
  discard(which: { ids?: readonly string[]; filter?: (letter: DeadLetter) => boolean }): Promise<readonly string[]>
}

/** Where a copy of a letter stands. */
type Copy = Pick<DeadLetter, 'letterId' | 'position'>

/** A letter that was chosen, without its body: where its first copy stands, what stands before that, and all its copies. */
interface Selected extends Copy, Pick<DeadLetter, 'replays'> {
  readonly before: string | undefined
  readonly copies: readonly Copy[]
}

interface Deps {
  driver: BrokerDriver
  publisher: Publisher
  topology: Topology
  clock: Clock
  suffix: string
}

/** Both topics a group owns on a topic exist afterwards. */
export async function ensureRetrySource(topology: Topology, topic: string, group: string): Promise<string> {
  const name = retryTopic(topic, group)
  await topology.ensureTopic(name, { partitions: 1, keep: false, maxAgeMs: undefined })
  await topology.ensureGroup(name, group, 'earliest')
  return name
}

/** Bodies of a log that are read at a time; one that is larger is read alone. */
export const pageBytes = 4_194_304
/** Messages of a log that are read at a time. */
const pageLetters = 200
/** How long ago a letter that is sent may have been looked at: others replay and discard too, while `edit` and the rate take their time. */
const freshMs = 1_000

const which = (what: string): TypeError => new TypeError(`${what} needs ids or a filter; for all letters: filter: () => true`)

/** One letter, or a list of them, as `get` would take it, is told how it is given here. */
function checkWhich(what: string, given: unknown, checks: Readonly<Record<string, Check>>): void {
  if (given === undefined) throw which(what)
  if (typeof given === 'string' || Array.isArray(given))
    throw new TypeError(`${what}: options must be an object, got ${shown(given)}; letters are given as { ids: [letterId, …] }`)
  checkOptions(what, given, checks)
}

export function createDeadLetters({ driver, publisher, topology, clock, suffix }: Deps, topic: string, group: string): DeadLetters {
  const log = deadLetterTopic(topic, group, suffix)
  const exists = async (): Promise<boolean> => (await driver.admin.topics(log)).length > 0

  /**
   * Every copy that is not marked, in the order of the log; with `replayed` also those that were replayed. Reads `first` of them to begin with, then ever more: those
   * wanted may stand behind many that are marked.
   */
  async function* copies({
    after,
    replayed = false,
    first = pageLetters,
  }: { after?: string | undefined; replayed?: boolean; first?: number } = {}): AsyncGenerator<{ letter: DeadLetter; before: string | undefined }> {
    if (!(await exists())) return
    const marks = await driver.log.marks(log)
    for (let position = after, n = Math.min(first, pageLetters); ; n = Math.min(2 * n, pageLetters)) {
      const page = await driver.log.read(log, 0, position, n, pageBytes)
      for (const entry of page) {
        const letter = asLetter(entry, topic, group)
        const before = position
        position = entry.position
        const mark = markOf(letter, marks)
        if (mark && !(replayed && mark === 'replayed')) continue
        yield { letter, before }
      }
      if (page.length === 0) return
    }
  }

  /** Each once: as its first copy. */
  async function* letters(after?: string, first = pageLetters): AsyncGenerator<DeadLetter> {
    const seen = new Set<string>()
    for await (const { letter } of copies({ after, first })) {
      if (seen.has(letter.letterId)) continue
      seen.add(letter.letterId)
      yield letter
    }
  }

  const select = async (
    { ids, filter }: { ids?: readonly string[] | undefined; filter?: ((letter: DeadLetter) => boolean) | undefined },
    what: string,
    replayed = false,
  ): Promise<Selected[]> => {
    if (!ids && !filter) throw which(what)
    const wanted = ids && new Set(ids)
    const found = new Map<string, Selected & { copies: Copy[] }>()
    for await (const { letter, before } of copies({ replayed })) {
      const { letterId, position, replays } = letter
      const first = found.get(letterId)
      if (first) first.copies.push({ letterId, position })
      else if ((!wanted || wanted.has(letterId)) && (!filter || chosen(filter, letter)))
        found.set(letterId, { letterId, position, replays, before, copies: [{ letterId, position }] })
    }
    return [...found.values()]
  }

  /** Gives chosen letters with their bodies, `ahead` at a time, or what became of them meanwhile. */
  const reader = (ahead: number): ((of: Selected) => Promise<DeadLetter | 'not-found' | 'replayed-elsewhere'>) => {
    let page = new Map<string, LogEntry>()
    let marks: Awaited<ReturnType<TopicLog['marks']>> = new Map()
    let readAt = -Infinity
    return async (one) => {
      const stale = clock.monotonic() - readAt >= freshMs
      if (stale) {
        marks = await driver.log.marks(log)
        readAt = clock.monotonic()
      }
      if (stale || !page.has(one.position))
        page = new Map((await driver.log.read(log, 0, one.before, ahead, pageBytes)).map((entry) => [entry.position, entry]))
      const entry = page.get(one.position)
      const mark = markOf(one, marks)
      if (!entry || mark === 'discarded') return 'not-found'
      return mark ? 'replayed-elsewhere' : asLetter(entry, topic, group)
    }
  }

  const mark = (copies: readonly Copy[], as: Mark): Promise<void> =>
    driver.log.mark(
      log,
      copies.map((copy) => ({ ...copy, mark: as })),
    )

  /** The message as it is sent again; throws for what `edit` cannot mean. */
  const copyToSend = async (letter: DeadLetter, edit: ReplayOptions['edit']): Promise<OutgoingMessage> => {
    const mended = asMended(await edit?.(letter))
    const { value = letter.value, headers = letter.headers, key = letter.key } = mended
    const tombstone = letter.tombstone && value.length === 0
    if (edit) publisher.checked({ topic, key, value, headers, tombstone })
    const id = `${letter.id}/replay/${letter.letterId}/${letter.position}`
    return copyOf(
      { ...letter, idStable: true, key, value, tombstone, rawKey: mended.key === undefined ? letter.rawKey : undefined },
      retryTopic(topic, group),
      { ...checkHeaders(headers), ...originHeaders(letter.origin), [header.replays]: String(letter.replays + 1) },
      driver.capabilities.dedupe ? { dedupeId: id } : {},
    )
  }

  return {
    count: async () => {
      let n = 0
      for await (const _ of letters()) n++
      return n
    },

    list: async (options = {}) => {
      checkOptions('list', options, listChecks)
      const { after, limit = 50, filter, scan = 1_000 } = options
      const page: DeadLetter[] = []
      let scanned = 0
      for await (const letter of letters(after, filter ? scan : limit)) {
        if (!filter || chosen(filter, letter)) page.push(letter)
        if (page.length === limit || ++scanned === scan) return { letters: page, next: letter.position }
      }
      return { letters: page, next: undefined }
    },

    get: async (id) => {
      for await (const letter of letters()) if (letter.letterId === id) return letter
      return undefined
    },

    replay: async (options) => {
      checkWhich('replay', options, replayChecks)
      const { ids, filter, order = 'oldest', limit = Infinity, ratePerSecond, dryRun = false, maxReplays = 3, edit, signal } = options
      if (ratePerSecond !== undefined && !(ratePerSecond > 0)) throw new RangeError(`ratePerSecond must be above 0, got ${ratePerSecond}`)
      const found = await select({ ids, filter }, 'replay')
      if (order === 'newest') found.reverse()
      const read = reader(order === 'newest' ? 1 : 50)
      const outcomes: ReplayOutcome[] = (ids ?? [])
        .filter((id) => !found.some(({ letterId }) => letterId === id))
        .map((letterId) => ({ letterId, outcome: 'not-found' }))
      if (!dryRun && found.length > 0) await ensureRetrySource(topology, topic, group)
      let left = limit
      let sent = 0
      /** What will hardly go away while one waits for as many answers as there are letters. */
      let failure: { error: unknown } | undefined
      /** The letter as it is sent; if it is not, what became of it has been noted. */
      const look = async (one: Selected): Promise<DeadLetter | undefined> => {
        const { letterId } = one
        try {
          const letter = await read(one)
          if (typeof letter === 'object') return letter
          outcomes.push({ letterId, outcome: letter })
        } catch (error) {
          failure = { error }
          left--
          outcomes.push({ letterId, outcome: 'failed', error })
        }
        return undefined
      }
      for (const one of found) {
        if (left <= 0) break
        signal?.throwIfAborted()
        const { letterId, replays, copies } = one
        if (failure) {
          left--
          outcomes.push({ letterId, outcome: 'failed', error: failure.error })
          continue
        }
        if (replays >= maxReplays) {
          outcomes.push({ letterId, outcome: 'too-many-replays' })
          continue
        }
        const letter = await look(one)
        if (!letter) continue
        let message: OutgoingMessage
        try {
          message = await copyToSend(letter, edit)
        } catch (error) {
          outcomes.push({ letterId, outcome: 'failed', error })
          continue
        }
        if (dryRun) {
          left--
          outcomes.push({ letterId, outcome: 'would-replay' })
          continue
        }
        if (ratePerSecond !== undefined && sent++ > 0) await clock.sleep(1_000 / ratePerSecond, { signal })
        if (!(await look(one))) continue // `edit` and the rate took their time
        const result = await publisher.send(message)
        if (result.status === 'stored') {
          left--
          await mark(copies, 'replayed').then(
            () => outcomes.push({ letterId, outcome: 'replayed' }),
            (error: unknown) => {
              failure = { error }
              outcomes.push({ letterId, outcome: 'replayed', error })
            },
          )
          continue
        }
        outcomes.push({ letterId, outcome: 'failed', error: result.error })
        if (result.status === 'rejected' && !isRetryable(result.error)) continue
        failure = result
        left--
      }
      return outcomes
    },

    discard: async (options) => {
      checkWhich('discard', options, discardChecks)
      const found = await select(options, 'discard', true)
      await mark(
        found.flatMap(({ copies }) => copies),
        'discarded',
      )
      return found.map(({ letterId }) => letterId)
    },
  }
}

/** Nothing, or an object with some of the three, which may be a whole letter: a body alone, or a name that is none of them, would change nothing. */
function asMended(given: unknown): Mended {
  if (given === undefined) return {}
  const names = typeof given === 'object' && given !== null && !ArrayBuffer.isView(given) && !Array.isArray(given) ? Object.keys(given) : ['']
  if (names.length > 0 && !['value', 'headers', 'key'].some((name) => names.includes(name)))
    throw new TypeError(`edit must give an object with value, headers or key, got ${shown(given)}`)
  return given as Mended
}

/** A promise is as good as true where JavaScript asks: it would choose every letter, for `discard` too. */
function chosen(filter: (letter: DeadLetter) => boolean, letter: DeadLetter): boolean {
  const answer: unknown = filter(letter)
  if (answer instanceof Promise) throw new TypeError('filter must give true or false, got a promise: list the letters, choose among them, and give their ids')
  return Boolean(answer)
}
