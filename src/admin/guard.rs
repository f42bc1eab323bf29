//! Decides who may use which route of the admin socket, before the body is read if possible. It reads no body.

use std::{fmt, sync::Arc};

use hyper::{HeaderMap, Request, StatusCode, header};

use super::{Admin, messages};
use crate::{
    access::{self, Peer, Refused},
    http::reply::{self, Reply},
};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A process on this machine, if the kernel knows it.
    Unix(Option<Arc<Peer>>),
    /// An unknown process, over TCP.
    Tcp,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(Some(peer)) => write!(f, "process {} of user {}", peer.process, peer.user),
            Self::Unix(None) => f.write_str("an unknown process"),
            Self::Tcp => f.write_str("an unknown process over TCP"),
        }
    }
}

impl Caller {
    fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Unix(peer) => peer.as_deref(),
            Self::Tcp => None,
        }
    }

    /// Whether it is root or the user of this process, who may end this process.
    pub(super) fn owns_this_process(&self) -> bool {
        self.peer().is_some_and(|peer| peer.user == 0 || peer.user == nix::unistd::geteuid().as_raw())
    }
}

/// The right to publish, as far as the request's head decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publisher {
    /// The caller may publish.
    Allowed,
    /// The caller may publish if the body has a valid key.
    KeyInBody,
}

impl Admin {
    /// Checks the right to publish by a request's head. A valid key is enough; a wrong one is refused.
    ///
    /// # Errors
    /// The caller may not publish, whatever the body has.
    pub(super) fn publisher(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        query: &str,
        body_has_key: bool,
    ) -> Result<Publisher, Refused> {
        match access::may_publish(&self.config, caller.peer(), key_in_head(headers, query).as_deref()) {
            Ok(()) => Ok(Publisher::Allowed),
            Err(Refused::NoKey) if body_has_key => Ok(Publisher::KeyInBody),
            Err(refused) => Err(refused),
        }
    }

    /// Checks the right to publish by the `key` of a body.
    ///
    /// # Errors
    /// The key is missing or wrong.
    pub(super) fn check_key(&self, key: Option<&[u8]>) -> Result<(), Refused> {
        access::may_publish(&self.config, None, key)
    }

    /// Checks the right to see statistics. On the Unix socket everyone may. Over TCP, if keys are configured, the caller needs one.
    ///
    /// # Errors
    /// The key is missing or wrong.
    pub(super) fn may_look(&self, caller: &Caller, request: &Request<impl Sized>) -> Result<(), Refused> {
        if matches!(caller, Caller::Unix(_)) || self.config.key_files.keys.is_empty() {
            return Ok(());
        }
        let key = key_in_head(request.headers(), request.uri().query().unwrap_or_default());
        access::may_publish(&self.config, None, key.as_deref())
    }
}

/// `Authorization: Bearer KEY`, else `?key=KEY`.
fn key_in_head(headers: &HeaderMap, query: &str) -> Option<Vec<u8>> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let in_query = || messages::fields(query.as_bytes()).find(|(name, _)| name == b"key").map(|(_, key)| key);
    bearer.map(<[u8]>::to_vec).or_else(in_query)
}

/// The reply to a refused caller.
pub(super) fn forbidden(refused: Refused) -> Reply {
    let code = match refused {
        Refused::NoKey => "key_missing",
        Refused::WrongKey => "key_wrong",
        Refused::User => "user_not_allowed",
    };
    reply::error(StatusCode::FORBIDDEN, code, &refused.to_string())
}

/// The refusal of a request that a page in a browser sent; `None` for any other request. Without it, any page could post a form to an
/// address on its reader's machine (Fetch, 2.2.6; Fetch Metadata, 2.1).
pub(super) fn refuse_pages(request: &Request<impl Sized>) -> Option<Reply> {
    let site = request.headers().get("sec-fetch-site").map(header::HeaderValue::as_bytes);
    if request.headers().contains_key(header::ORIGIN) || matches!(site, Some(b"cross-site" | b"same-site")) {
        let what = "the admin socket is not for pages in a browser (the request has Origin or Sec-Fetch-Site): publish from \
                    your application; a proxy that lets its own pages publish removes both headers";
        return Some(reply::error(StatusCode::FORBIDDEN, "not_for_browsers", what));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_page(headers: &[(&'static str, &str)]) -> bool {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        refuse_pages(&request).is_some()
    }

    #[test]
    fn requests_with_a_browsers_headers_are_refused() {
        assert!(from_page(&[("origin", "https://evil.example")]));
        assert!(from_page(&[("origin", "null")]));
        assert!(from_page(&[("sec-fetch-site", "cross-site")]));
        assert!(from_page(&[("sec-fetch-site", "same-site")]));
        assert!(!from_page(&[("sec-fetch-site", "none")]), "an address typed by hand");
        assert!(!from_page(&[]));
    }

    #[test]
    fn the_key_is_taken_from_the_header_or_else_the_query() {
        let mut headers = HeaderMap::new();
        assert_eq!(key_in_head(&headers, "event=a&key=a%20b"), Some(b"a b".to_vec()));
        headers.insert("authorization", "Bearer x".parse().unwrap());
        assert_eq!(key_in_head(&headers, "key=y"), Some(b"x".to_vec()));
        assert_eq!(key_in_head(&HeaderMap::new(), "keys=y"), None);
    }
}
