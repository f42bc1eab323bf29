// Opens a page in Chromium and prints what it shows, as a line of JSON each time that changes: the texts of #state and of the
// items of #messages.
import { chromium } from 'playwright-core'

const [url] = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  // As root there is no sandbox; and it is to talk to nobody but nginx.
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
})
process.on('SIGTERM', () => browser.close().then(() => process.exit(0)))
const page = await browser.newPage()
page.on('pageerror', (error) => process.stdout.write(JSON.stringify({ error: String(error) }) + '\n'))
await page.exposeFunction('print', (line) => process.stdout.write(JSON.stringify(line) + '\n'))
await page.goto(url)
await page.evaluate(() => {
  const show = () => print({
    state: document.getElementById('state').textContent,
    messages: [...document.querySelectorAll('#messages li')].map((item) => item.textContent),
  })
  new MutationObserver(show).observe(document.body, { childList: true, subtree: true, characterData: true })
  show()
})
