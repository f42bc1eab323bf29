// Reads a stream with Chromium's EventSource, in a page of the same origin, and prints what it is given, a line of JSON for
// each event, as eventsource.mjs does.
import { chromium } from 'playwright-core'

const [url, ...types] = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  // As root there is no sandbox; and it is to talk to nobody but nginx.
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
})
process.on('SIGTERM', () => browser.close().then(() => process.exit(0)))
const page = await browser.newPage()
await page.exposeFunction('print', (line) => process.stdout.write(JSON.stringify(line) + '\n'))
const origin = new URL('/page', url).href
await page.route(origin, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }))
await page.goto(origin)
await page.evaluate(([url, types]) => {
  const source = new EventSource(url)
  for (const type of types) {
    source.addEventListener(type, ({ data, lastEventId }) => print({ type, data, id: lastEventId }))
  }
  source.addEventListener('open', () => print({ type: 'open' }))
  source.addEventListener('error', () => print({ type: 'error', ended: source.readyState === EventSource.CLOSED }))
}, [url, ['message', 'ssecast.gap', ...types]])
