//! Who may ask the admin socket for what, decided before a body is read wherever the head decides it.

use std::sync::Arc;

use hyper::{HeaderMap, Request, StatusCode, header};

use super::{Admin, messages};
use crate::{
    access::{self, Peer, Refused},
    http::reply::{self, Reply},
};

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A process on this machine, if the kernel knows it.
    Unix(Option<Arc<Peer>>),
    /// Any process that reaches the address.
    Tcp,
}

impl Caller {
    fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Unix(peer) => peer.as_deref(),
            Self::Tcp => None,
        }
    }

    /// Whether it may end this process: root, and the user of this process.
    pub(super) fn owns_this_process(&self) -> bool {
        self.peer().is_some_and(|peer| peer.user == 0 || peer.user == nix::unistd::geteuid().as_raw())
    }
}

/// What the head says of the right to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Publisher {
    /// It may.
    Allowed,
    /// A key in the body may give the right.
    KeyInBody,
}

impl Admin {
    /// Whether a request's head gives the right to publish. Any valid key is enough; a wrong one is refused.
    ///
    /// # Errors
    /// Why it may not publish, whatever its body says.
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

    /// Whether `key`, from a body, gives the right to publish.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn check_key(&self, key: Option<&[u8]>) -> Result<(), Refused> {
        access::may_publish(&self.config, None, key)
    }

    /// Lets a caller look at what is not a secret on this machine: over TCP, where keys are configured, it needs one.
    ///
    /// # Errors
    /// Why it may not.
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

/// The answer to a caller that is refused.
pub(super) fn forbidden(refused: Refused) -> Reply {
    let code = match refused {
        Refused::NoKey => "key_missing",
        Refused::WrongKey => "key_wrong",
        Refused::User => "user_not_allowed",
    };
    reply::error(StatusCode::FORBIDDEN, code, &refused.to_string())
}

/// Refuses what a page in somebody's browser sends: any page may post a form to an address on the machine that it is read on
/// (Fetch, 2.2.6; Fetch Metadata, 2.1).
/// `None` for what is no page.
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
    fn pages_are_known_by_what_browsers_add() {
        assert!(from_page(&[("origin", "https://evil.example")]));
        assert!(from_page(&[("origin", "null")]));
        assert!(from_page(&[("sec-fetch-site", "cross-site")]));
        assert!(from_page(&[("sec-fetch-site", "same-site")]));
        assert!(!from_page(&[("sec-fetch-site", "none")]), "an address typed by hand");
        assert!(!from_page(&[]));
    }

    #[test]
    fn a_key_stands_in_the_header_or_the_query() {
        let mut headers = HeaderMap::new();
        assert_eq!(key_in_head(&headers, "event=a&key=a%20b"), Some(b"a b".to_vec()));
        headers.insert("authorization", "Bearer x".parse().unwrap());
        assert_eq!(key_in_head(&headers, "key=y"), Some(b"x".to_vec()));
        assert_eq!(key_in_head(&HeaderMap::new(), "keys=y"), None);
    }
}
