// Reads a stream with the npm package `eventsource` and prints what it is given, a line of JSON for each event.
import { EventSource } from 'eventsource'

const [url, ...types] = process.argv.slice(2)
const source = new EventSource(url)
const print = (line) => process.stdout.write(JSON.stringify(line) + '\n')

for (const type of ['message', 'ssecast.gap', ...types]) {
  source.addEventListener(type, ({ data, lastEventId }) => print({ type, data, id: lastEventId }))
}
source.addEventListener('open', () => print({ type: 'open' }))
source.addEventListener('error', ({ code }) => {
  print({ type: 'error', code, ended: source.readyState === EventSource.CLOSED })
})
