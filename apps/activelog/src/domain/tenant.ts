/** A tenant's name is part of the name of its database schema, so little is allowed. */
const grammar = /^[a-z][a-z0-9_-]{0,39}$/

/** True for a name that a tenant can have; that it exists is another matter. */
export const isTenantName = (name: string): boolean => grammar.test(name)
