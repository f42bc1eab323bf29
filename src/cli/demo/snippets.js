// Code for users to copy: how a page reads a channel, and how a program publishes on it. Makes text only.

const shell = (word) => (/^[\w/.:=+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
const single = (text) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;

// The URL for redis-py, which knows one scheme for Unix sockets.
const pythonUrl = (url) => url.replace(/^(redis|valkey)\+unix:/, "unix:").replace(/^valkey/, "redis");

// The arguments of phpredis's connect().
function phpAddress(url) {
  const { protocol, hostname, port, pathname } = new URL(url);
  if (protocol.endsWith("unix:")) return single(decodeURIComponent(pathname));
  const tls = /^(redis|valkey)s:$/.test(protocol) ? "tls://" : "";
  return `${single(tls + hostname)}, ${port || 6379}`;
}

// `places`: `admin` is the path of the admin socket, `redisCli` the command line of redis-cli, and `redisUrl` the URL that it
// connects to. Both are null if there is no Redis, or one with a password.
export function snippets(channel, { admin, redisCli, redisUrl }, origin) {
  const name = encodeURIComponent(channel);
  const redis = Boolean(redisUrl);
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
// Events may be missing: reload. All pages
// get a gap at once: wait a random moment.
stream.addEventListener("ssecast.gap", () =>
  setTimeout(() => location.reload(),
    Math.random() * 5000));`,
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
      [
        "Or through Redis",
        redis && `// needs the extension redis (phpredis)
$redis = new Redis();
$redis->connect(${phpAddress(redisUrl)});
$redis->publish(${single(channel)}, 'hello');`,
      ],
    ].slice(0, redis ? 2 : 1),
    Python: [
      [
        "Publish",
        `import httpx  # pip install httpx
uds = httpx.HTTPTransport(uds=${JSON.stringify(admin)})
httpx.Client(transport=uds).post(
    "http://ssecast/publish",
    data={"channel": ${JSON.stringify(channel)}, "message": "hello"})`,
      ],
      [
        "Or through Redis",
        redis && `import redis  # pip install redis
client = redis.Redis.from_url(
    ${JSON.stringify(pythonUrl(redisUrl))})
client.publish(${JSON.stringify(channel)}, "hello")`,
      ],
    ].slice(0, redis ? 2 : 1),
  };
}
