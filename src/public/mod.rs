//! The public socket, which nginx proxies `/sse/` to: parses a request, authorizes it, and gives its connection to the
//! shard. It answers what is not a stream or a poll itself, and never writes to a client that is one.

mod authorize;
mod request;
mod response;
mod takeover;

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc};

use hyper::{Method, Request, body::Incoming};

use crate::{
    access::{Anyone, Authorizer},
    client_limit::ClientLimit,
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

async fn answer(request: &Request<Incoming>, shard: &ShardHandle, public: &Public) -> Answer<Accepted> {
    match request.uri().path() {
        // The snippet strips the prefix; another location may not.
        "/" | "/sse/" | "/sse" => {}
        "/healthz" => return Answer::Response(response::health()),
        path => return Answer::Response(response::not_found(path)),
    }
    match join(request, shard, public).await {
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
async fn join(request: &Request<Incoming>, shard: &ShardHandle, public: &Public) -> Result<Accepted, Reply> {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Err(response::preflight()),
        _ => return Err(response::not_allowed()),
    }
    let (query, headers, config) =
        (request.uri().query().unwrap_or_default(), request.headers(), &public.config.stream);
    let asked = request::parse(query, headers, config).map_err(|error| response::bad_request(&error))?;
    let grant = authorize::authorize(&*public.authorizer, &asked, query, headers).await?;
    let Some(permit) = public.client_limit.acquire() else {
        public.metrics.refused.add(1);
        return Err(response::too_many_clients(public.client_limit.max(), config));
    };
    if request.method() == Method::HEAD {
        return Err(response::head_only());
    }
    let hold = shard.hold(&grant.channels).await.map_err(|channel| response::refused_by_source(&channel))?;
    let head = response::head(&asked, headers, config);
    let joining =
        Joining { channels: grant.channels, kind: asked.kind, start: asked.start, head, reply: asked.reply, permit };
    Ok((joining, hold))
}
