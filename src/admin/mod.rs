//! The admin socket: publishes, and what may be known of the daemon. It never writes to a client.

mod publish;
mod reload;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1};
use hyper_util::rt::TokioTimer;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use self::publish::{BodyError, Shape};
pub use self::reload::{ReloadRequest, Reloaded, Reloads};
use crate::{
    access::{self, Peer},
    broker::{Dispatcher, Published, Publisher},
    config,
    http::{self, Answer, Ended},
    stream::{AttachedStream, Stream},
};

/// Longest time for a request's head to arrive; a connection that is kept open and silent longer is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A request with many messages may be this many times as long as one message.
const MESSAGES_A_REQUEST: usize = 16;
/// What an event is taken to have beside its message, in bytes.
const EVENT_BYTES: usize = 64;

/// A request that came too late for one reload, as it is asked again for the next one.
const ASKED_AGAIN: &[u8] = b"POST /reload HTTP/1.1\r\nHost: ssecast\r\nConnection: close\r\n\r\n";

/// Whether connections are to end after the request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They are not.
    No,
    /// They are; a request that is not whole within the time is refused.
    Within(Duration),
}

/// What the admin socket answers with.
pub struct Admin {
    /// Who may publish, and how much.
    pub config: config::Publish,
    /// Where publishes go.
    pub publisher: Arc<dyn Publisher>,
    /// What the shards know.
    pub dispatcher: Arc<Dispatcher>,
    /// The sources' names, by their number.
    pub sources: Vec<&'static str>,
    /// Where a new process is asked for.
    pub reloads: Reloads,
}

type Answered = Response<Full<Bytes>>;

impl Admin {
    /// Serves one connection until it ends. Once `ending` says so, and the request under way is answered, the connection is
    /// given back.
    pub async fn serve(self: Arc<Self>, stream: AttachedStream, ending: watch::Receiver<Ending>) -> Option<Stream> {
        // A peer that the kernel doesn't know has no rights by being one.
        let peer = stream.as_unix().and_then(|stream| Peer::of(stream).ok()).map(Arc::new);
        let answer = |request| {
            let (admin, peer, ending) = (Arc::clone(&self), peer.clone(), ending.clone());
            async move { admin.answer(request, peer.as_deref(), ending).await }
        };
        let mut until = ending.clone();
        let leave = async move {
            // An error says that the sender is gone, and with it everything.
            let _ = until.wait_for(|ending| *ending != Ending::No).await;
        };
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        match http::serve(stream, &builder, answer, leave).await {
            Ended::Left(stream) => Some(stream),
            Ended::Taken(stream, ()) => stream.into_stream(Bytes::from_static(ASKED_AGAIN)).ok(),
            Ended::Closed => None,
        }
    }

    /// Answers a request; one for a reload that has to be asked again takes its connection.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Option<&Peer>,
        ending: watch::Receiver<Ending>,
    ) -> Answer<()> {
        if request.method() == Method::POST && request.uri().path() == "/reload" {
            return self.reload(peer).await.map_or(Answer::Take(()), Answer::Response);
        }
        Answer::Response(self.respond(request, peer, ending).await)
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        peer: Option<&Peer>,
        ending: watch::Receiver<Ending>,
    ) -> Answered {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        match (method, path.as_str()) {
            (Method::POST, "/publish") => self.publish(request, None, peer, ending).await,
            (Method::POST, path) if path.starts_with("/publish/") => {
                let channel: Vec<u8> = percent_encoding::percent_decode_str(&path["/publish/".len()..]).collect();
                self.publish(request, Some(channel), peer, ending).await
            }
            (_, path) if path == "/publish" || path.starts_with("/publish/") => not_allowed("POST"),
            (Method::GET | Method::HEAD, "/stats") => self.stats().await,
            (Method::GET | Method::HEAD, "/healthz") => json(StatusCode::OK, &json!({ "status": "ok" })),
            (Method::GET | Method::HEAD, "/readyz") => self.ready(),
            (_, "/reload") => not_allowed("POST"),
            (_, "/stats" | "/healthz" | "/readyz") => not_allowed("GET, HEAD"),
            (_, path) => {
                let what = format!(
                    "nothing is at {path:?}; there are POST /publish and /reload, GET /stats, /healthz and /readyz"
                );
                error(StatusCode::NOT_FOUND, &what)
            }
        }
    }

    async fn publish(
        &self,
        request: Request<Incoming>,
        channel: Option<Vec<u8>>,
        peer: Option<&Peer>,
        ending: watch::Receiver<Ending>,
    ) -> Answered {
        let (head, body) = request.into_parts();
        let limit = match channel {
            Some(_) => self.config.max_message,
            None => self.config.max_message.saturating_mul(MESSAGES_A_REQUEST),
        };
        let collected = tokio::select! {
            collected = Limited::new(body, limit).collect() => collected,
            () = too_late(ending) => return broken_off(),
        };
        let body = match collected {
            Ok(body) => body.to_bytes(),
            Err(cause) if cause.is::<LengthLimitError>() => return too_long(limit),
            Err(cause) => return error(StatusCode::BAD_REQUEST, &format!("the request's body broke off: {cause}")),
        };
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let request = match (channel, content_type.split(';').next().unwrap_or("").trim()) {
            (Some(channel), _) => publish::from_raw(&channel, head.uri.query().unwrap_or_default(), body),
            (None, "application/json") => publish::from_json(&body),
            (None, "application/x-ndjson" | "application/ndjson" | "application/jsonl") => publish::from_lines(&body),
            (None, "application/x-www-form-urlencoded" | "") => publish::from_form(&body),
            (None, other) => {
                let what = format!(
                    "{other:?} can't be published: send a form, application/json, application/x-ndjson, or the \
                     message itself to /publish/CHANNEL"
                );
                return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &what);
            }
        };
        let request = match request.and_then(|request| self.check_length(request)) {
            Ok(request) => request,
            Err(what @ (BodyError::TooLong { .. } | BodyError::TooMuch { .. })) => {
                return error(StatusCode::PAYLOAD_TOO_LARGE, &what.to_string());
            }
            Err(what) => return error(StatusCode::BAD_REQUEST, &what.to_string()),
        };
        let bearer =
            head.headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if let Err(refused) = access::may_publish(&self.config, peer, request.key.as_deref().or(bearer)) {
            return error(StatusCode::FORBIDDEN, &refused.to_string());
        }
        match self.publisher.publish(request.messages).await {
            Ok(published) => render(&published, request.shape),
            Err(what) => unavailable(&what.to_string()),
        }
    }

    fn check_length(&self, request: publish::Request) -> Result<publish::Request, BodyError> {
        let allowed = self.config.max_message;
        if let Some(given) = request.messages.iter().map(|message| message.data.len()).find(|&given| given > allowed) {
            return Err(BodyError::TooLong { given, allowed });
        }
        // One message on many channels is as many events.
        let given = request.messages.iter().map(|message| message.data.len() + EVENT_BYTES).sum();
        let allowed = allowed.saturating_mul(MESSAGES_A_REQUEST);
        if given > allowed { Err(BodyError::TooMuch { given, allowed }) } else { Ok(request) }
    }

    async fn stats(&self) -> Answered {
        let all = self.dispatcher.all_subscribers().await;
        let all: Vec<Value> = all.into_iter().map(|(name, count)| json!([name.as_str(), count])).collect();
        json(StatusCode::OK, &Value::Array(all))
    }

    /// A new process takes over. Only who may end this one may ask for that: root, and the daemon's own user.
    /// Gives back nothing where it has to be asked again.
    async fn reload(&self, peer: Option<&Peer>) -> Option<Answered> {
        if !peer.is_some_and(|peer| peer.user == 0 || peer.user == nix::unistd::geteuid().as_raw()) {
            let what = "only root and the daemon's own user may ask for a reload, on the Unix socket";
            return Some(error(StatusCode::FORBIDDEN, what));
        }
        match self.reloads.ask().await {
            Reloaded::By(pid) => Some(json(StatusCode::OK, &json!({ "status": "ok", "pid": pid }))),
            Reloaded::Failed(why) => {
                Some(error(StatusCode::INTERNAL_SERVER_ERROR, &format!("nothing has changed: {why}")))
            }
            Reloaded::Again => None,
        }
    }

    fn ready(&self) -> Answered {
        let away: Vec<&str> = self
            .dispatcher
            .disconnected_sources()
            .into_iter()
            .filter_map(|source| self.sources.get(source).copied())
            .collect();
        if away.is_empty() {
            return match self.reloads.last_failure() {
                None => json(StatusCode::OK, &json!({ "status": "ready" })),
                Some(why) => {
                    json(StatusCode::OK, &json!({ "status": "ready", "last_reload": format!("failed: {why}") }))
                }
            };
        }
        let what = format!("away: {}; clients stay connected and will be told of the gap", away.join(", "));
        json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not ready", "error": what, "away": away }))
    }
}

fn render(published: &[Published], shape: Shape) -> Answered {
    let result = |id: Option<String>, subscribers: u32| match id {
        Some(id) => json!({ "status": "ok", "id": id, "subscribers": subscribers }),
        None => json!({ "status": "ok", "subscribers": subscribers }),
    };
    let each = || published.iter().map(|one| result(one.id.map(|id| id.to_string()), one.subscribers));
    match shape {
        Shape::One => {
            // One message on several channels: the id is the last one's, the clients are all.
            let id = published.last().and_then(|one| one.id).map(|id| id.to_string());
            json(StatusCode::OK, &result(id, published.iter().map(|one| one.subscribers).sum()))
        }
        Shape::Array => json(StatusCode::OK, &Value::Array(each().collect())),
        Shape::Lines => {
            let lines: String = each().map(|line| format!("{line}\n")).collect();
            with_type(StatusCode::OK, "application/x-ndjson", lines)
        }
    }
}

/// Resolves when a publish can't be waited for any more to be whole.
async fn too_late(mut ending: watch::Receiver<Ending>) {
    let ending = ending.wait_for(|ending| *ending != Ending::No).await.map(|ending| *ending);
    match ending {
        Ok(Ending::Within(time)) => sleep(time).await,
        // The sender is gone: whoever ends this connection will not wait for it.
        _ => std::future::pending().await,
    }
}

/// The answer to a publish that was not whole in time. What comes of it later is nothing any more.
fn broken_off() -> Answered {
    let what = "ssecast stops or a new process takes over, and the request was not whole in time; nothing was published: \
                publish again";
    let mut response = unavailable(what);
    response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

fn unavailable(what: &str) -> Answered {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, what);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

fn too_long(limit: usize) -> Answered {
    let what = format!(
        "the request has more than {limit} bytes (publish.max_message, {MESSAGES_A_REQUEST} times it for a list)"
    );
    error(StatusCode::PAYLOAD_TOO_LARGE, &what)
}

fn not_allowed(allow: &'static str) -> Answered {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, &format!("allowed here: {allow}"));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    response
}

fn error(status: StatusCode, what: &str) -> Answered {
    json(status, &json!({ "status": "error", "error": what }))
}

fn json(status: StatusCode, body: &Value) -> Answered {
    with_type(status, "application/json", format!("{body}\n"))
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Answered {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
