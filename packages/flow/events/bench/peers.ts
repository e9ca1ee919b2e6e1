// The peers are no dependencies of the workspace: they live in a private project beside this file, which `bench/kit.ts` installs when it is missing.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const folder = join(import.meta.dirname, 'peers')
const require = createRequire(join(folder, 'package.json'))

/** The peer's module; its types are not there to check against, so the caller says the few it uses. */
export async function peer<T>(name: string): Promise<T> {
  return (await import(pathToFileURL(require.resolve(name)).href)) as T
}
