// A reporter of node:test that writes the totals of a run as one line of JSON, for tools/test.ts to add up.
interface Event {
  type: string
  data: { counts?: Record<string, number> }
}

/** Yields counts, those of the whole run last. */
export default async function* totals(source: AsyncIterable<Event>): AsyncGenerator<string> {
  for await (const { type, data } of source) if (type === 'test:summary') yield `${JSON.stringify(data.counts)}\n`
}
