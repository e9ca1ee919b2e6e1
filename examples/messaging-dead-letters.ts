import { createBroker, json, memoryDriver, message } from '@core-backend/messaging'

const broker = createBroker(memoryDriver(), { hooks: { onError: () => {} } }) // the letters tell
let fixed = false
await broker.subscribe<{ amount: number }>('payments', { group: 'ledger', codec: json(), retry: { maxAttempts: 2, initialDelayMs: 5 } }, (payment) => {
  if (payment.body.amount < 0 && !fixed) throw new RangeError(`No account takes ${payment.body.amount}`)
  console.log(`booked ${payment.body.amount}`)
})
for (const amount of [10, -20, 30]) await broker.publish(message().topic('payments').key('account-1').json({ amount }).build())

const settled = async (): Promise<void> => {
  while ((await broker.lag('payments', 'ledger')).messages > 0) await new Promise((resolve) => setTimeout(resolve, 20))
}
await settled()

// #region readme
const letters = broker.deadLetters('payments', 'ledger')
for (const letter of (await letters.list()).letters) console.log(letter.error.code, letter.error.message, `after ${letter.attempts} attempts`)

fixed = true // deploy the mended handler, then:
const refused = (letter: { error: { code: string } }): boolean => letter.error.code === 'RangeError'
console.log(await letters.replay({ filter: refused, dryRun: true }).then((outcomes) => outcomes.map(({ outcome }) => outcome)))
const outcomes = await letters.replay({ filter: refused, ratePerSecond: 100 })
// #endregion
await settled()
console.log(outcomes.map(({ outcome }) => outcome))
console.log(`${await letters.count()} left`)
await broker.close()

// Prints:
// booked 10
// booked 30
// RangeError No account takes -20 after 2 attempts
// [ 'would-replay' ]
// booked -20
// [ 'replayed' ]
// 0 left
