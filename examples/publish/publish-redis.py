#!/usr/bin/env python3
"""Publishes by way of Redis, with the package `redis` (pip install redis, or apt install python3-redis).

    publish-redis.py CHANNEL MESSAGE [EVENT-TYPE]

ssecast needs a [redis] table with the same Redis; REDIS_PREFIX is its redis.prefix.
"""
import os
import sys

import redis

PREFIX = os.environ.get("REDIS_PREFIX", "")
client = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), socket_timeout=3)


def publish(channel, message, event=None):
    if event is not None:
        message = f"\0ssecast:event\0{event}\0{message}"
    client.publish(PREFIX + channel, message)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("publish-redis.py CHANNEL MESSAGE [EVENT-TYPE]")
    try:
        publish(*sys.argv[1:])
    except redis.RedisError as error:
        sys.exit(f"not published: {error}")
