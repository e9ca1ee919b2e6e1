// A file that nobody reads to its end hides what it does. This one only warns: 400 lines is where to think again, not where to cut.
import { files, isTest, read } from './workspace.ts'

export const claim = 'Files stay readable (warnings)'
export const warnsOnly = true

export function check(root: string): string[] {
  return files(root).flatMap((file) => {
    if (!file.endsWith('.ts') || isTest(file)) return []
    const lines = read(root, file).trimEnd().split('\n').length
    const limit = file.startsWith('tools/') ? 100 : 400
    return lines > limit ? [`${file} has ${lines} lines; think again at ${limit}`] : []
  })
}
