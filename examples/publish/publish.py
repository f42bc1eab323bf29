#!/usr/bin/env python3
"""Publishes on ssecast's admin socket. Python's standard library is enough.

    publish.py CHANNEL MESSAGE [EVENT-TYPE]

In an application, copy `publish` and `UnixConnection`. The user that it runs as must be in the group ssecast.
"""
import http.client
import json
import os
import socket
import sys

ADMIN = os.environ.get("SSECAST_ADMIN", "/run/ssecast/admin.sock")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(ADMIN)


def publish(channel, message, event=None):
    """Publishes a string, or whatever JSON can express. Returns ssecast's answer; raises OSError where there is none, and
    RuntimeError where it refuses."""
    body = {"channel": channel, "message": message}
    if event is not None:
        body["event"] = event
    connection = UnixConnection("ssecast", timeout=10)
    try:
        connection.request("POST", "/publish", json.dumps(body).encode(), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read().decode().strip()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"ssecast answered {response.status}: {answer}")
    return json.loads(answer)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("publish.py CHANNEL MESSAGE [EVENT-TYPE]")
    try:
        print(json.dumps(publish(*sys.argv[1:])))
    except (OSError, RuntimeError) as error:
        sys.exit(f"not published: {error}")
