// Uses the demo's page in Chromium as a visitor does, and fails at the first thing that is not as it should be.
// With a second argument, it writes a picture of the page there, as large as a laptop's screen.
import assert from 'node:assert/strict'
import { chromium } from 'playwright-core'

const [url, picture] = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
})
const page = await browser.newPage({ colorScheme: 'light', viewport: { width: 1280, height: 800 } })
page.setDefaultTimeout(30_000)
const errors = []
page.on('pageerror', (error) => errors.push(String(error)))

// Publishes as a program does, not by the page.
async function publish(channel, message, event, status = 200) {
  const body = new URLSearchParams({ channel, message, ...(event && { event }) })
  const response = await fetch(new URL('/publish', url), { method: 'POST', body })
  assert.equal(response.status, status)
}
const row = (text) => page.locator('#log li', { hasText: text })

// The picture: a few events of each kind.
async function draw() {
  await page.fill('#new-type', 'price')
  await page.press('#new-type', 'Enter')
  await publish('demo', JSON.stringify({ symbol: 'ACME', price: 99.95, change: -0.4 }), 'price')
  await page.click('#trick')
  await page.waitForSelector('#trick-result.good')
  await publish('orders', JSON.stringify({ order: 4711, status: 'shipped', carrier: 'bike' }))
  await row('shipped').waitFor()
  // The figures are drawn once a second.
  await page.waitForTimeout(2500)
  await page.evaluate(() => scrollTo(0, 0))
  await page.mouse.move(640, 790)
  await page.screenshot({ path: picture })
}

const width = () => page.evaluate(() => document.documentElement.scrollWidth)

try {
  await page.goto(`${url}?channels=demo&channels=orders`)
  await page.waitForSelector('[data-state=open]')
  const trick = await page.locator('#trick').boundingBox()
  assert.ok(trick.y + trick.height < 800, 'the button that cuts the connection is on the first screen')

  // JSON is folded to a line, and opens.
  await publish('orders', JSON.stringify({ order: 4711, status: 'packed', items: ['tea', 'mug'] }))
  const json = row('"order"').locator('details')
  await json.waitFor()
  assert.equal(await json.locator('pre').count(), 0)
  await json.locator('summary').click()
  await json.locator('pre', { hasText: '\n  "status": "packed",\n' }).waitFor()
  await json.locator('summary').click()

  await publish('demo', 'Hello, world')
  await row('Hello, world').waitFor()

  if (picture) await draw()

  // The names of EventSource's own events are refused as types, and are no news of the connection.
  for (const type of ['error', 'open']) {
    await page.fill('#new-type', type)
    await page.press('#new-type', 'Enter')
    await publish('demo', `of type ${type}`, type, 400)
  }
  assert.equal(await page.getAttribute('body', 'data-state'), 'open')
  assert.equal(await row('Connection lost').count(), 0)

  // What was published while the page was cut off arrives, in order.
  await page.click('#trick')
  await page.waitForSelector('#trick-result.good')

  // The code to copy has the form's channel.
  await page.fill('[name=channel]', "it's new")
  for (const [tab, code] of [['JavaScript', '/sse/?channels=it\'s%20new'], ['curl', "'channel=it'\\''s new'"], ['PHP', "'it\\'s new'"], ['Python', '"it\'s new"']]) {
    await page.click(`#tab-${tab}`)
    const shown = await page.textContent('#snippets')
    assert.ok(shown.includes(code), `${tab}: ${code} in ${shown}`)
  }

  // Long names and long words make the page no wider than the screen.
  const long = 'x'.repeat(255)
  await page.fill('#new-channel', long)
  await page.press('#new-channel', 'Enter')
  await page.fill('[name=channel]', long)
  await page.fill('[name=message]', 'W'.repeat(3000))
  await page.click('#publish .main')
  await row('WWW').waitFor()
  for (const size of [{ width: 1280, height: 800 }, { width: 390, height: 844 }]) {
    await page.setViewportSize(size)
    assert.ok((await width()) <= size.width, `the page is ${await width()} px wide on a screen of ${size.width}`)
  }
  assert.deepEqual(errors, [])
  console.log('ok')
} finally {
  await browser.close()
}
