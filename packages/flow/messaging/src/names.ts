/** A group's private source, <topic>.<group>.retry: delayed retries, due delays of the group, replays. */
export const retryTopic = (topic: string, group: string): string => `${topic}.${group}.retry`
export const deadLetterTopic = (topic: string, group: string, suffix: string): string => `${topic}.${group}${suffix}`

const topicName = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,119}$/
const groupName = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/
const headerName = /^[a-z0-9_.-]{1,128}$/
const suffixName = /^\.[a-z0-9_-]{1,16}$/
// eslint-disable-next-line no-control-regex
const badHeaderValue = /[\r\n\0]|^\s|\s$|\p{Cs}/u

export function checkTopic(topic: string, reserved: readonly string[]): void {
  if (typeof topic !== 'string' || !topicName.test(topic))
    throw new RangeError(`Bad topic ${JSON.stringify(topic)}: 1 to 120 of A-Z a-z 0-9 _ . -, beginning with a letter or a digit`)
  const suffix = reserved.find((s) => topic.endsWith(s))
  if (suffix) throw new RangeError(`Bad topic ${JSON.stringify(topic)}: names that end in ${suffix} are the broker's own`)
}

export function checkGroup(group: string): void {
  if (typeof group !== 'string' || !groupName.test(group))
    throw new RangeError(`Bad group ${JSON.stringify(group)}: 1 to 64 of A-Z a-z 0-9 _ -, beginning with a letter or a digit, no dot`)
}

export function checkSuffix(suffix: string): void {
  if (!suffixName.test(suffix) || suffix === '.retry')
    throw new RangeError(`Bad dead-letter suffix ${JSON.stringify(suffix)}: a dot and 1 to 16 of a-z 0-9 _ -, not .retry`)
}

/** One grammar on every broker. Names come out in lower case; two names that differ only in case are refused. */
export function checkHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  const checked: Record<string, string> = {}
  for (const name in headers) {
    const lower = name.toLowerCase()
    const value = headers[name]!
    if (!headerName.test(lower)) throw new RangeError(`Bad header name ${JSON.stringify(name)}: 1 to 128 of a-z 0-9 _ . -`)
    if (lower.startsWith('cb-')) throw new RangeError(`Bad header name ${JSON.stringify(name)}: cb- is reserved`)
    if (Object.hasOwn(checked, lower)) throw new RangeError(`Header ${JSON.stringify(lower)} is given twice`)
    if (typeof value !== 'string') throw new TypeError(`Header ${lower} must be a string, got ${typeof value}`)
    if (badHeaderValue.test(value))
      throw new RangeError(`Bad value of header ${lower}: ${JSON.stringify(value)} holds a line break, NUL, a lone surrogate or an outer blank; encode it`)
    // An assignment to this one name would set the prototype and lose the header.
    if (lower === '__proto__') Object.defineProperty(checked, lower, { value, enumerable: true, writable: true, configurable: true })
    else checked[lower] = value
  }
  return checked
}

/** Kafka's rule: `.` and `_` count as one character where names must be unique. */
export const uniqueName = (topic: string): string => topic.replaceAll('_', '.')
