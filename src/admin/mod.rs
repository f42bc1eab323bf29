//! The admin socket: publishes, statistics, health and reloads. It never writes to a client's stream.

mod body;
mod guard;
mod inspect;
mod messages;
mod publish;
mod publishers;
mod reload;
mod routes;

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{
    Request, StatusCode,
    body::{Body as _, Incoming},
    header,
    server::conn::http1,
};
use hyper_util::rt::TokioTimer;
use serde_json::json;
use tokio::{sync::watch, time::sleep};

use self::guard::Caller;
pub use self::{
    body::Bodies,
    publishers::Publishers,
    reload::{ReloadRequest, Reloaded, Reloads},
};
use crate::{
    access::Peer,
    broker::{Dispatcher, Publisher},
    config,
    http::{
        self, Answer, Ended,
        reply::{self, Reply},
    },
    metrics::Metrics,
    stream::{AttachedStream, Stream},
};

/// Longest time for a request's head to arrive. A connection that stays silent for longer is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether connections must end after the request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They may stay open.
    No,
    /// They must end. A request that has not arrived completely within this time is refused.
    Within(Duration),
    /// They must end now. A request that has not arrived completely is refused, and a connection whose client does not read its
    /// answer is closed.
    Now,
}

/// What the admin socket needs to answer requests.
pub struct Admin {
    /// Who may publish, and how much.
    pub config: config::Publish,
    /// The route of publishes: to the dispatcher, or through a source.
    pub publisher: Arc<dyn Publisher>,
    /// For questions to the shards.
    pub dispatcher: Arc<Dispatcher>,
    /// Requests for reloads.
    pub reloads: Arc<Reloads>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The memory for bodies of requests.
    pub bodies: Bodies,
    /// The publishes under way.
    pub publishers: Publishers,
}

/// A request, and what is known about it before its body is read.
struct Asked {
    request: Request<Incoming>,
    /// The part of the path that matches `{…}` in the route's path, percent-decoded; else empty.
    name: Vec<u8>,
    caller: Caller,
    ending: watch::Receiver<Ending>,
}

impl Admin {
    /// Serves one connection until it ends. If `ending` says that connections must end, answers the request under way and returns
    /// the connection. If it says that they must end now, a connection whose client does not read its answer is closed.
    pub async fn serve(self: Arc<Self>, stream: AttachedStream, ending: watch::Receiver<Ending>) -> Option<Stream> {
        let caller = match stream.as_unix() {
            // If the kernel doesn't know the peer, it has no rights as a user.
            Some(stream) => Caller::Unix(Peer::of(stream).ok().map(Arc::new)),
            None => Caller::Tcp,
        };
        let answer = |request| {
            let (admin, caller, ending) = (Arc::clone(&self), caller.clone(), ending.clone());
            async move { admin.answer(Asked { request, name: Vec::new(), caller, ending }).await }
        };
        let mut until = ending.clone();
        let leave = async move {
            // An error means that the sender is dropped: the process ends.
            let _ = until.wait_for(|ending| *ending != Ending::No).await;
        };
        let mut until = ending.clone();
        let give_up = async move {
            if until.wait_for(|ending| *ending == Ending::Now).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        match http::serve(stream, &builder, answer, leave, give_up).await {
            Ended::Left(stream) => Some(stream),
            Ended::Taken(_, _, never) => match never {},
            Ended::Closed => None,
            Ended::Unread => {
                self.metrics.unread.add(1);
                tracing::warn!(
                    %caller,
                    "a connection on the admin socket was closed with a part of an answer, because its client did not read \
                     it and this process must end: make the client read its answers"
                );
                None
            }
        }
    }

    /// Answers a request.
    async fn answer(&self, asked: Asked) -> Answer<Infallible> {
        if let Some(reply) = guard::refuse_pages(&asked.request) {
            return body::refuse(asked.request.into_body(), reply).await;
        }
        match routes::find(asked.request.method(), asked.request.uri().path()) {
            Ok((route, name)) => {
                let leaves_body = !route.reads_body() && !asked.request.body().is_end_stream();
                match (route.handler)(self, Asked { name, ..asked }).await {
                    Answer::Response(reply) if leaves_body => Answer::Response(reply::closing(reply)),
                    answer => answer,
                }
            }
            Err(reply) => body::refuse(asked.request.into_body(), *reply).await,
        }
    }

    /// Starts an upgrade. Only root and the daemon's own user may do that, since they may also end this process.
    async fn reload(&self, asked: Asked) -> Answer<Infallible> {
        if !asked.caller.owns_this_process() {
            let what = "only root and the daemon's own user may ask for a reload, on the Unix socket";
            return Answer::Response(reply::error(StatusCode::FORBIDDEN, "not_owner", what));
        }
        match self.reloads.ask().await {
            Reloaded::By(pid) => Answer::Response(reply::json(StatusCode::OK, &json!({ "status": "ok", "pid": pid }))),
            Reloaded::Failed(why) => Answer::Response(reply::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "reload_failed",
                &format!("nothing has changed: {why}"),
            )),
            Reloaded::Busy => {
                let what = "another reload is under way: ask again when it is over";
                let mut reply = reply::error(StatusCode::CONFLICT, "reload_under_way", what);
                reply.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
                Answer::Response(reply)
            }
        }
    }
}

/// Resolves when a request that has not arrived completely must be refused.
async fn too_late(mut ending: watch::Receiver<Ending>) {
    let ending = ending.wait_for(|ending| *ending != Ending::No).await.map(|ending| *ending);
    match ending {
        Ok(Ending::Within(time)) => sleep(time).await,
        Ok(Ending::Now) => {}
        // The sender is dropped: the process ends, and this connection with it.
        _ => std::future::pending().await,
    }
}

/// Makes a reply an answer.
fn done(reply: Reply) -> Answer<Infallible> {
    Answer::Response(reply)
}
