<?php
// Publishes by way of Redis, with the phpredis extension:  php publish-redis.php CHANNEL MESSAGE [EVENT-TYPE]
// ssecast needs a [redis] table with the same Redis; REDIS_PREFIX is its redis.prefix.

declare(strict_types=1);

function ssecast_publish(Redis $redis, string $channel, string $message, ?string $event = null): void
{
    if ($event !== null) {
        $message = "\0ssecast:event\0$event\0$message";
    }
    $redis->publish((getenv('REDIS_PREFIX') ?: '') . $channel, $message);
}

if ($argc < 3 || $argc > 4) {
    fwrite(STDERR, "usage: php publish-redis.php CHANNEL MESSAGE [EVENT-TYPE]\n");
    exit(1);
}
try {
    $redis = new Redis();
    $redis->connect(getenv('REDIS_HOST') ?: '127.0.0.1', (int) (getenv('REDIS_PORT') ?: 6379), 3.0);
    ssecast_publish($redis, ...array_slice($argv, 1));
} catch (RedisException $error) {
    fwrite(STDERR, "not published: {$error->getMessage()}\n");
    exit(1);
}
