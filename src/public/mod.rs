//! The public socket, to which nginx proxies `/sse/`: parses each request, authorizes it, and passes the connection of a stream or
//! poll to the shard. It answers all other requests itself, and never writes to a stream or poll.

mod authorize;
mod request;
mod response;
mod takeover;
mod unanswered;

#[cfg(test)]
mod identity_tests;

use std::{cell::Cell, future::Future, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use hyper::{
    Method, Request,
    body::{Body as _, Incoming},
};

use self::unanswered::Unanswered;
use crate::{
    access::Authorizer,
    client_limit::{ClientLimit, ClientPermit, ConnectionPermit},
    config::{ChannelRules, Config},
    http::{
        Answer,
        reply::{self, Reply},
    },
    metrics::Metrics,
    name::ChannelName,
    shard::{Hold, Joining, ServeConnection, ShardHandle},
    stream::Stream,
};

/// What the public socket needs to answer requests.
struct Public {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    client_limit: Arc<ClientLimit>,
    authorizer: Arc<dyn Authorizer>,
    /// They say which patterns clients may read.
    rules: ChannelRules,
}

/// The permit of a connection, until a request makes the connection a client.
struct Permit(Cell<Option<ConnectionPermit>>);

impl Permit {
    fn new(permit: ConnectionPermit) -> Self {
        Self(Cell::new(Some(permit)))
    }

    /// Turns it into a client's permit; `None` if the limit on clients is reached.
    fn take_for_client(&self) -> Option<ClientPermit> {
        match self.0.take()?.into_client() {
            Ok(client) => Some(client),
            Err(connection) => {
                self.0.set(Some(connection));
                None
            }
        }
    }

    /// Puts back the permit of a refused client, whose connection stays open.
    fn put_back(&self, client: ClientPermit) {
        self.0.set(Some(client.into_connection()));
    }
}

/// Why a request takes its connection.
enum Taking {
    /// The shard begins a stream or poll.
    ByShard(Box<Joining>, Hold),
    /// The successor answers the request.
    ForSuccessor(Unanswered),
}

/// Returns what a shard calls for each connection that was accepted on the public socket.
#[must_use]
pub fn service(
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    client_limit: Arc<ClientLimit>,
    authorizer: Arc<dyn Authorizer>,
) -> ServeConnection {
    let rules = config.channel_rules();
    serve(Public { config, metrics, client_limit, authorizer, rules })
}

fn serve(public: Public) -> ServeConnection {
    let public = Rc::new(public);
    Rc::new(move |stream: Stream, shard: ShardHandle| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(takeover::serve(stream, shard, Rc::clone(&public)))
    })
}

async fn answer(request: &Request<Incoming>, shard: &ShardHandle, public: &Public, permit: &Permit) -> Answer<Taking> {
    match respond(request, shard, public, permit).await {
        // Nothing reads a body here, and a successor must not read it as a request.
        Answer::Response(reply) if !request.body().is_end_stream() => Answer::Response(reply::closing(reply)),
        answer => answer,
    }
}

/// The response to a request that still waits when the daemon stops. Its client is to reconnect after `retry`.
fn stopping(request: &Request<Incoming>, public: &Public, retry: Duration) -> Reply {
    let (query, headers, config) =
        (request.uri().query().unwrap_or_default(), request.headers(), &public.config.stream);
    let mut reply = match request::parse(query, headers, config) {
        Ok(asked) => response::stopping(&asked, retry),
        Err(error) => response::bad_request(&error),
    };
    response::cors(headers, config).put(&mut reply);
    reply
}

async fn respond(request: &Request<Incoming>, shard: &ShardHandle, public: &Public, permit: &Permit) -> Answer<Taking> {
    match request.uri().path() {
        // The nginx snippet strips the prefix; another configuration may not.
        "/" | "/sse/" | "/sse" => {}
        "/healthz" => return Answer::Response(response::health()),
        path => return Answer::Response(response::not_found(path)),
    }
    match join(request, shard, public, permit).await {
        Ok(taking) => Answer::Take(taking),
        Err(mut reply) => {
            response::cors(request.headers(), &public.config.stream).put(&mut reply);
            Answer::Response(reply)
        }
    }
}

/// Turns a request into a stream or a poll.
///
/// # Errors
/// The response to any other request, or to a refused one.
async fn join(
    request: &Request<Incoming>,
    shard: &ShardHandle,
    public: &Public,
    permit: &Permit,
) -> Result<Taking, Reply> {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Err(response::preflight()),
        _ => return Err(response::not_allowed()),
    }
    let (query, headers, config) =
        (request.uri().query().unwrap_or_default(), request.headers(), &public.config.stream);
    let asked = request::parse(query, headers, config).map_err(|error| response::bad_request(&error))?;
    let is_refused = |name: &&ChannelName| name.is_pattern() && !public.rules.allow_pattern(name);
    if let Some(pattern) = asked.channels.iter().find(is_refused) {
        return Err(response::pattern_not_allowed(pattern));
    }
    let grant = authorize::authorize(&*public.authorizer, &asked, query, headers).await?;
    if request.method() == Method::HEAD {
        return Err(response::head_only());
    }
    let Some(client) = permit.take_for_client() else {
        public.metrics.refused.add(1);
        return Err(response::too_many_clients(public.client_limit.max_clients(), config));
    };
    let hold = match shard.hold(&grant.channels, asked.start).await {
        Ok(hold) => hold,
        Err(channel) => {
            permit.put_back(client);
            return Err(response::refused_by_source(&channel));
        }
    };
    let head = response::head(&asked, headers, config);
    let joining = Joining {
        kind: asked.kind,
        start: asked.start,
        head,
        reply: asked.reply,
        permit: client,
        identity: grant.identity,
    };
    Ok(Taking::ByShard(Box::new(joining), hold))
}
