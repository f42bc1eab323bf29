#!/usr/bin/env node
// Publishes on ssecast's admin socket:  node publish.mjs CHANNEL MESSAGE [EVENT-TYPE]
// Node's own modules are enough. In an application, copy the function; its user must be in the group ssecast.
import { request } from 'node:http'
import { realpathSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Resolves to ssecast's answer; rejects where the message was not published. `message` is a string or any JSON value. */
export function publish(channel, message, event) {
  const socketPath = process.env.SSECAST_ADMIN ?? '/run/ssecast/admin.sock'
  const options = { socketPath, path: '/publish', method: 'POST', headers: { 'Content-Type': 'application/json' } }
  return new Promise((resolve, reject) => {
    const post = request({ ...options, signal: AbortSignal.timeout(10_000) }, async (response) => {
      try {
        const answer = Buffer.concat(await response.toArray()).toString().trim()
        if (response.statusCode !== 200) throw new Error(`ssecast answered ${response.statusCode}: ${answer}`)
        resolve(JSON.parse(answer))
      } catch (error) {
        reject(error)
      }
    })
    post.on('error', reject)
    post.end(JSON.stringify({ channel, message, event }))
  })
}

if (realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [channel, message, event] = process.argv.slice(2)
  if (message === undefined) {
    console.error('publish.mjs CHANNEL MESSAGE [EVENT-TYPE]')
    process.exit(1)
  }
  try {
    console.log(JSON.stringify(await publish(channel, message, event)))
  } catch (error) {
    console.error(`not published: ${error.message}`)
    process.exit(1)
  }
}
