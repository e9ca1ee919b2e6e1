import type { Definition } from './stage.ts'

type Needs = NonNullable<Definition['needs']>

const unless =
  (says: string, test: (...args: Parameters<Needs>) => boolean): Needs =>
  (capabilities, options) =>
    test(capabilities, options) ? undefined : says

/** Why a case does not apply. Each capability has two sides: what it promises, and how its absence is told. */
export const needs: Readonly<
  Record<'history' | 'noHistory' | 'delay' | 'noDelay' | 'dedupe' | 'noDedupe' | 'sever' | 'inject' | 'refuse' | 'serverFencing', Needs>
> = {
  history: unless('declares no history', (c) => c.history),
  noHistory: unless('has history', (c) => !c.history),
  delay: unless('declares no delay', (c) => c.delay !== undefined),
  noDelay: unless('has delays', (c) => c.delay === undefined),
  dedupe: unless('declares no dedupe', (c) => c.dedupe !== undefined),
  noDedupe: unless('has dedupe', (c) => c.dedupe === undefined),
  sever: unless('the harness cannot sever', (_, o) => o.sever !== false),
  inject: unless('the harness cannot inject', (_, o) => o.inject === true),
  refuse: unless('the harness cannot refuse', (_, o) => o.refuse === true),
  serverFencing: unless('fences in the client', (c) => c.fencing === 'server'),
}
