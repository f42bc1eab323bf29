//! The public socket, which nginx proxies `/sse/` to: parses a request, authorizes it, and gives its connection to the
//! shard. It answers what is not a stream or a poll itself, and never writes to a client that is one.

mod authorize;
mod request;
mod response;
mod takeover;

use std::{cell::Cell, future::Future, pin::Pin, rc::Rc, sync::Arc};

use hyper::{Method, Request, body::Incoming};

use crate::{
    access::{Anyone, Authorizer},
    client_limit::{ClientLimit, ClientPermit, ConnectionPermit},
    config::Config,
    http::{Answer, reply::Reply},
    metrics::Metrics,
    shard::{Hold, Joining, ServeConnection, ShardHandle},
    stream::Stream,
};

/// What the public socket answers with.
struct Public {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    client_limit: Arc<ClientLimit>,
    authorizer: Arc<dyn Authorizer>,
}

/// The permit of a connection, while no request has taken it to make the connection a client.
struct Permit(Cell<Option<ConnectionPermit>>);

impl Permit {
    fn new(permit: ConnectionPermit) -> Self {
        Self(Cell::new(Some(permit)))
    }

    /// Takes it and makes it a client's; `None`, where the limit on clients is reached.
    fn take_for_client(&self) -> Option<ClientPermit> {
        match self.0.take()?.into_client() {
            Ok(client) => Some(client),
            Err(connection) => {
                self.0.set(Some(connection));
                None
            }
        }
    }

    /// Takes back the permit of a client that was refused, whose connection goes on.
    fn give_back(&self, client: ClientPermit) {
        self.0.set(Some(client.into_connection()));
    }
}

/// A stream or a poll that may begin.
type Accepted = (Joining, Hold);

/// What a shard calls for each connection that is accepted on the public socket.
#[must_use]
pub fn service(config: Arc<Config>, metrics: Arc<Metrics>, client_limit: Arc<ClientLimit>) -> ServeConnection {
    let public = Rc::new(Public { config, metrics, client_limit, authorizer: Arc::new(Anyone) });
    Rc::new(move |stream: Stream, shard: ShardHandle| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(takeover::serve(stream, shard, Rc::clone(&public)))
    })
}

async fn answer(
    request: &Request<Incoming>,
    shard: &ShardHandle,
    public: &Public,
    permit: &Permit,
) -> Answer<Accepted> {
    match request.uri().path() {
        // The snippet strips the prefix; another location may not.
        "/" | "/sse/" | "/sse" => {}
        "/healthz" => return Answer::Response(response::health()),
        path => return Answer::Response(response::not_found(path)),
    }
    match join(request, shard, public, permit).await {
        Ok(accepted) => Answer::Take(accepted),
        Err(mut reply) => {
            response::cors(request.headers(), &public.config.stream).put(&mut reply);
            Answer::Response(reply)
        }
    }
}

/// Makes a request a stream or a poll.
///
/// # Errors
/// The response to a request that is none, or is refused.
async fn join(
    request: &Request<Incoming>,
    shard: &ShardHandle,
    public: &Public,
    permit: &Permit,
) -> Result<Accepted, Reply> {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Err(response::preflight()),
        _ => return Err(response::not_allowed()),
    }
    let (query, headers, config) =
        (request.uri().query().unwrap_or_default(), request.headers(), &public.config.stream);
    let asked = request::parse(query, headers, config).map_err(|error| response::bad_request(&error))?;
    let grant = authorize::authorize(&*public.authorizer, &asked, query, headers).await?;
    if request.method() == Method::HEAD {
        return Err(response::head_only());
    }
    let Some(client) = permit.take_for_client() else {
        public.metrics.refused.add(1);
        return Err(response::too_many_clients(public.client_limit.max_clients(), config));
    };
    let hold = match shard.hold(&grant.channels).await {
        Ok(hold) => hold,
        Err(channel) => {
            permit.give_back(client);
            return Err(response::refused_by_source(&channel));
        }
    };
    let head = response::head(&asked, headers, config);
    let joining =
        Joining { kind: asked.kind, start: asked.start, head, reply: asked.reply, permit: client, info: None };
    Ok((joining, hold))
}
