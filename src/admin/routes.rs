//! The table of routes, from which 404 and 405 replies are made and with which a test compares the documentation. It answers nothing else.

use std::{convert::Infallible, future::Future, pin::Pin};

use hyper::{Method, StatusCode};

use super::{Admin, Asked};
use crate::http::{
    Answer,
    reply::{self, Reply},
};

/// An answer under way.
pub(super) type Answering<'a> = Pin<Box<dyn Future<Output = Answer<Infallible>> + Send + 'a>>;

/// A route: one path with one method.
pub(super) struct Route {
    method: &'static str,
    /// The path. `{…}` at its end matches any name.
    path: &'static str,
    /// What it does, in one line of the documentation.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test compares it with the documentation"))]
    help: &'static str,
    pub(super) handler: for<'a> fn(&'a Admin, Asked) -> Answering<'a>,
}

/// Everything that the admin socket serves. GET serves HEAD as well.
const ROUTES: &[Route] = &[
    Route {
        method: "POST",
        path: "/publish",
        help: "publishes a form, JSON, a JSON array or NDJSON",
        handler: |admin, asked| Box::pin(admin.publish(asked)),
    },
    Route {
        method: "POST",
        path: "/publish/{channel}",
        help: "publishes the body as one message",
        handler: |admin, asked| Box::pin(admin.publish_raw(asked)),
    },
    Route {
        method: "GET",
        path: "/stats",
        help: "every channel with clients, and their number: `[[\"cats\",946],…]`",
        handler: |admin, asked| Box::pin(admin.stats(asked)),
    },
    Route {
        method: "GET",
        path: "/healthz",
        help: "200 while the process answers; needs no key",
        handler: |admin, asked| Box::pin(admin.health(asked)),
    },
    Route {
        method: "GET",
        path: "/readyz",
        help: "200 while every source is connected, else 503; also why the last reload failed, and counters",
        handler: |admin, asked| Box::pin(admin.ready(asked)),
    },
    Route {
        method: "POST",
        path: "/reload",
        help: "a new process takes over; for root and the daemon's own user",
        handler: |admin, asked| Box::pin(admin.reload(asked)),
    },
];

impl Route {
    /// If `path` matches the route, returns the name at its end, which is empty for a route without a name.
    fn name_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.split_once('{') {
            Some((prefix, _)) => path.strip_prefix(prefix),
            None => (path == self.path).then_some(""),
        }
    }

    /// Whether the handler reads the request's body to its end, or says itself that the connection is to be closed.
    pub(super) fn reads_body(&self) -> bool {
        self.path.starts_with("/publish")
    }

    fn allows(&self, method: &Method) -> bool {
        self.method == method.as_str() || (self.method == "GET" && method == Method::HEAD)
    }
}

/// The route of a request, and the name in its path.
///
/// # Errors
/// 404 with all routes, or 405 with the allowed methods.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<u8>), Box<Reply>> {
    let here = || ROUTES.iter().filter_map(|route| Some((route, route.name_in(path)?)));
    if let Some((route, name)) = here().find(|(route, _)| route.allows(method)) {
        return Ok((route, percent_encoding::percent_decode_str(name).collect()));
    }
    let mut allow: Vec<&str> = here().map(|(route, _)| route.method).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    if !allow.is_empty() {
        let allow = allow.join(", ");
        return Err(Box::new(reply::not_allowed(&allow, &format!("{path:?} is for {allow}"))));
    }
    let all: Vec<String> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let what = format!("nothing is at {path:?}; there are {}", all.join(", "));
    Err(Box::new(reply::error(StatusCode::NOT_FOUND, "not_found", &what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_operate_has_the_table_of_routes() {
        let row = |Route { method, path, help, .. }: &Route| format!("| `{method} {path}` | {help} |\n");
        let table: String = ROUTES.iter().map(row).collect();
        let page = include_str!("../../docs/operate.md");
        assert!(page.contains(&table), "docs/operate.md should have:\n{table}");
    }

    /// Returns the route's path and the name; or the status and the allowed methods.
    fn found(method: Method, path: &str) -> String {
        match find(&method, path) {
            Ok((route, name)) => format!("{} {:?}", route.path, String::from_utf8_lossy(&name)),
            Err(reply) => {
                let allow = reply.headers().get("allow").map(|allow| allow.to_str().unwrap());
                format!("{} {}", reply.status().as_u16(), allow.unwrap_or_default())
            }
        }
    }

    #[test]
    fn a_path_and_a_method_find_their_route_or_the_allowed_methods() {
        assert_eq!(found(Method::POST, "/publish"), "/publish \"\"");
        assert_eq!(found(Method::POST, "/publish/a%20b/c"), "/publish/{channel} \"a b/c\"");
        assert_eq!(found(Method::HEAD, "/stats"), "/stats \"\"");
        assert_eq!(found(Method::GET, "/publish"), "405 POST");
        assert_eq!(found(Method::DELETE, "/readyz"), "405 GET, HEAD");
        assert_eq!(found(Method::GET, "/"), "404 ");
        assert_eq!(found(Method::GET, "/statsx"), "404 ");
    }
}
