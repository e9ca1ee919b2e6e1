export const body: Uint8Array = Buffer.alloc(256, 'x')

/** Rate of `total` handled messages, from `start` until the last one has been counted and `done` has resolved. */
export async function drain(
  total: number,
  start: (count: () => void) => Promise<unknown>,
  done: () => Promise<unknown> = async () => undefined,
): Promise<number> {
  let n = 0
  const started = performance.now()
  await new Promise<void>((resolve, reject) => {
    start(() => {
      if (++n === total) resolve()
    }).catch(reject)
  })
  await done()
  return (total / (performance.now() - started)) * 1_000
}
