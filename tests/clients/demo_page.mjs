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
  // An invalid type is not listened for, and the reason is shown: with "Listen" and with a refused publish.
  assert.match(await page.textContent('#type-problem'), /"open" is the name of EventSource's own event/)
  await page.fill('[name=event]', 'error')
  await page.click('#publish .main')
  await page.waitForSelector('#answer.bad')
  await page.fill('[name=event]', '')
  assert.deepEqual(await page.locator('#listened span').allTextContents(), picture ? ['message', 'price'] : ['message'])
  // A type that is refused for another reason than its name is not listened for either.
  await page.fill('[name=event]', 'fine')
  await page.fill('[name=channel]', 'bad*')
  await page.click('#publish .main')
  await page.waitForFunction(() => document.querySelector('#answer').textContent.includes('bad*'))
  assert.equal(await page.locator('#listened span', { hasText: 'fine' }).count(), 0)
  await page.fill('[name=event]', '')
  await page.fill('[name=channel]', 'demo')

  // An invalid channel is named, and ends no stream.
  for (const [name, reason] of [['a*', /"a\*".*not allowed/], ['__x', /"__x".*reserved/], ['ü'.repeat(128), /256 bytes; at most 255/]]) {
    await page.fill('#new-channel', name)
    await page.press('#new-channel', 'Enter')
    assert.match(await page.textContent('#channel-problem'), reason)
  }
  await page.fill('#new-channel', '')
  assert.equal(await page.getAttribute('body', 'data-state'), 'open')
  assert.deepEqual(await page.locator('#channels span').allTextContents(), ['demo', 'orders'])

  // What was published while the page was cut off arrives, in order.
  await page.click('#trick')
  await page.waitForSelector('#trick-result.good')
  assert.ok(!/\d{3} ms/.test(await page.textContent('#delay')), 'the time that the page was disconnected is not counted')

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
  await page.fill('[name=channel]', 'y'.repeat(255))
  await page.click('#publish .main')
  await page.locator('#answer button').waitFor()
  const heights = await page.evaluate(() => ['#log li:has(.more)', '#answer button'].map((one) => document.querySelector(one).offsetHeight))
  assert.ok(heights[0] < 300 && heights[1] < 40, `a long message and a long name are clipped: ${heights} px`)
  const whole = row('WWW').locator('pre')
  await row('WWW').locator('.more').click()
  assert.equal((await whole.textContent()).length, 3000)
  await row('WWW').locator('.more').click()
  for (const size of [{ width: 1280, height: 800 }, { width: 390, height: 844 }]) {
    await page.setViewportSize(size)
    assert.ok((await width()) <= size.width, `the page is ${await width()} px wide on a screen of ${size.width}`)
  }

  // A page whose address has an invalid channel opens the others.
  await page.goto(`${url}?channels=demo&channels=b*`)
  await page.waitForSelector('[data-state=open]')
  assert.match(await page.textContent('#channel-problem'), /"b\*".*not allowed/)

  // A stream that is refused says so at once after the button's events.
  const many = Array.from({ length: 65 }, (_, number) => `channels=c${number}`).join('&')
  await page.goto(`${url}?${many}`)
  await page.waitForSelector('[data-state=refused]')
  await page.click('#trick')
  await page.waitForFunction(() => document.querySelector('#trick-result').textContent.includes('refused'))
  assert.deepEqual(errors, [])
  console.log('ok')
} finally {
  await browser.close()
}
