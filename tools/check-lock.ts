// `npm install` succeeds where a registry lacks a package, and `npm ci` in the next clone then fails; and a lock written behind a mirror names the mirror.
import { isFile, read, run } from './workspace.ts'

export const claim = 'The lock installs anywhere: npm ci accepts it, and it names no registry'

export async function check(root: string): Promise<string[]> {
  const lock = JSON.parse(read(root, 'package-lock.json')) as { packages: Record<string, { resolved?: string }> }
  const hosted = Object.entries(lock.packages).filter(([, { resolved }]) => resolved !== undefined && /^(https?|git)/.test(resolved))
  const npmrc = isFile(root, '.npmrc') && /registry|_auth/i.test(read(root, '.npmrc')) ? ['.npmrc names a registry or a login'] : []
  const { ok, output } = await run('npm', ['ci', '--dry-run', '--offline', '--ignore-scripts'], { cwd: root })
  return [
    ...hosted.slice(0, 5).map(([name, { resolved }]) => `package-lock.json takes ${name} from ${resolved}: install with omit-lockfile-registry-resolved`),
    ...npmrc,
    ...(ok ? [] : [`npm ci refuses the lock: ${output.trim()}`]),
  ]
}
