// Code for users to copy: how a page reads a channel, and how a program publishes on it. Makes text only.

const shell = (word) => (/^[\w/.:=+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
const single = (text) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

// `places`: `admin` is the path of the admin socket, `redisCli` the command line of redis-cli or null.
export function snippets(channel, { admin, redisCli }, origin) {
  const name = encodeURIComponent(channel);
  const redis = Boolean(redisCli);
  const curl = [
    ["Publish", `curl --unix-socket ${shell(admin)} \\\n  --data-urlencode ${shell(`channel=${channel}`)} \\\n  --data-urlencode 'message=hello' http://ssecast/publish`],
    ["Read", `curl -N ${shell(`${origin}/sse/?channels=${name}`)}`],
  ];
  if (redis) curl.splice(1, 0, ["Publish through Redis", `${redisCli} publish ${shell(channel)} 'hello from Redis'`]);
  return {
    JavaScript: [
      [
        "Read in a page",
        `const stream = new EventSource(
  ${JSON.stringify(`/sse/?channels=${name}`)});
stream.onmessage = (event) =>
  console.log(event.data);
// Events may be missing: reload the page.
stream.addEventListener("ssecast.gap",
  () => location.reload());`,
      ],
    ],
    curl,
    PHP: [
      [
        "Publish",
        `$curl = curl_init('http://ssecast/publish');
curl_setopt_array($curl, [
  CURLOPT_UNIX_SOCKET_PATH => ${single(admin)},
  CURLOPT_POSTFIELDS => http_build_query([
    'channel' => ${single(channel)}, 'message' => 'hello']),
]);
curl_exec($curl);`,
      ],
      ["Or through Redis", `$redis->publish(${single(channel)}, 'hello');`],
    ].slice(0, redis ? 2 : 1),
    Python: [
      [
        "Publish",
        `import httpx
uds = httpx.HTTPTransport(uds=${JSON.stringify(admin)})
httpx.Client(transport=uds).post(
    "http://ssecast/publish",
    data={"channel": ${JSON.stringify(channel)}, "message": "hello"})`,
      ],
      ["Or through Redis", `redis.Redis().publish(${JSON.stringify(channel)}, "hello")`],
    ].slice(0, redis ? 2 : 1),
  };
}
