#!/usr/bin/env python3
"""What nginx.conf asks: GET /may-read is answered 204 with the header X-Channels for a user who is signed in, else 401.

    backend.py [PORT]      # 8000 by default, on 127.0.0.1

A stand-in for a page of your application. Sign in with the cookie session=alice or session=bob.
"""
import sys
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

# Your application looks into its sessions instead.
CHANNELS = {
    "alice": ["news", "user-alice"],
    "bob": ["news", "user-bob", "größe &+=%"],
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.split("?")[0] != "/may-read":
            return self.answer(404)
        try:
            session = SimpleCookie(self.headers.get("Cookie", "")).get("session")
        except CookieError:
            session = None
        channels = CHANNELS.get(session.value) if session else None
        if channels is None:
            return self.answer(401)
        # safe="" so that a comma, an & or a + in a name can't be taken for a separator.
        self.answer(204, {"X-Channels": ",".join(quote(name, safe="") for name in channels)})

    def answer(self, status, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        """Says nothing for each request."""


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
