//! Writes the head of a request again, so that another process can parse and answer it. It answers nothing.

use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::{Request, Version, body::Body, header};

/// A request that this process does not answer.
pub(super) struct Unanswered {
    head: Bytes,
    /// Whether the bytes after the head are the next request. Else they are this one's body, which nobody reads.
    has_body: bool,
}

/// Writes the head of `request`. It is no longer than it was when it arrived, except for one byte a line where lines ended with LF
/// alone. A body is left out, since no request on the public socket needs one; then the connection ends after the answer, so that
/// the body is not read as a request.
pub(super) fn rewrite(request: &Request<impl Body>) -> Unanswered {
    let has_body = !request.body().is_end_stream();
    let mut head = BytesMut::with_capacity(1024);
    let mut put = |parts: [&[u8]; 4]| parts.iter().for_each(|part| head.put_slice(part));
    let version: &[u8] = if request.version() == Version::HTTP_10 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" };
    put([request.method().as_str().as_bytes(), b" ", request.uri().to_string().as_bytes(), version]);
    for (name, value) in request.headers() {
        let is_of_body = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::EXPECT];
        if !(has_body && is_of_body.contains(name)) {
            put([name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"]);
        }
    }
    if has_body {
        put([b"connection:close\r\n", b"", b"", b""]);
    }
    put([b"\r\n", b"", b"", b""]);
    Unanswered { head: head.freeze(), has_body }
}

impl Unanswered {
    /// The bytes that the other process is to read first: the head, and what was `read` after it.
    pub(super) fn followed_by(self, read: Bytes) -> Bytes {
        match self.has_body || read.is_empty() {
            true => self.head,
            false => [self.head, read].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    fn rewritten<B: Body>(request: &Request<B>, read: &'static str) -> String {
        String::from_utf8(rewrite(request).followed_by(Bytes::from_static(read.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn a_head_is_written_as_it_arrived_and_what_follows_stays() {
        let request = Request::get("/sse/?channels=a%20b&channels[]=c").header("Host", "x").header("Cookie", "k=\"v\"");
        let request = request.header("Connection", "keep-alive").body(Empty::<Bytes>::new()).unwrap();
        let head = "GET /sse/?channels=a%20b&channels[]=c HTTP/1.1\r\nhost:x\r\ncookie:k=\"v\"\r\nconnection:keep-alive\r\n\r\n";
        assert_eq!(rewritten(&request, ""), head);
        assert_eq!(rewritten(&request, "GET / HT"), format!("{head}GET / HT"));
    }

    #[test]
    fn a_body_is_left_out_and_never_read_as_a_request() {
        let request = Request::get("/?channels=a").version(Version::HTTP_10).header("content-length", "20");
        let request = request.header("connection", "keep-alive").body(Full::new(Bytes::from_static(b"x"))).unwrap();
        assert_eq!(rewritten(&request, "GET /?channels=b"), "GET /?channels=a HTTP/1.0\r\nconnection:close\r\n\r\n");
    }
}
