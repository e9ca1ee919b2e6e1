import { type Statistics, statisticsOf } from '../domain/statistics.ts'
import type { ProjectionReader } from './ports.ts'

export interface UserUseCases {
  /** Zeros for a user who has done nothing. */
  statistics(tenant: string, userId: number): Promise<Statistics>
  badges: ProjectionReader['badges']
}

export function userUseCases({ projections, now }: { projections: ProjectionReader; now: () => Date }): UserUseCases {
  return {
    statistics: async (tenant, userId) => statisticsOf(userId, await projections.daySums(tenant, userId), now()),
    badges: projections.badges,
  }
}
