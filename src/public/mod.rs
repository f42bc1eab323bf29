//! The public socket, which nginx proxies `/sse/` to: what is asked, whether it may be had, and who then serves it.
//!
//! It answers what is not a stream or a poll itself, and never writes to a client that is one.

mod request;
mod takeover;

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};

use crate::{
    client_limit::ClientLimit,
    config::Config,
    http::Answer,
    metrics::Metrics,
    shard::{Hold, Joining, ServeConnection, ShardHandle},
    stream::Stream,
};

/// What the public socket answers with.
struct Routes {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    client_limit: Arc<ClientLimit>,
}

/// A stream or a poll that may begin.
type Accepted = Answer<(Joining, Hold)>;

/// What a shard calls for each connection that is accepted on the public socket.
#[must_use]
pub fn service(config: Arc<Config>, metrics: Arc<Metrics>, client_limit: Arc<ClientLimit>) -> ServeConnection {
    let routes = Rc::new(Routes { config, metrics, client_limit });
    Rc::new(move |stream: Stream, shard: ShardHandle| -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(takeover::serve(stream, shard, Rc::clone(&routes)))
    })
}

async fn answer(request: &Request<Incoming>, shard: &ShardHandle, routes: &Routes) -> Accepted {
    match request.uri().path() {
        // The snippet strips the prefix; a location of one's own may not.
        "/" | "/sse/" | "/sse" => {}
        "/healthz" => return Answer::Response(text(StatusCode::OK, "ok\n")),
        path => {
            let what = format!("nothing is at {path:?}: streams are at /?channels=NAME");
            return Answer::Response(error(StatusCode::NOT_FOUND, &what));
        }
    }
    let cors = request::cors(request.headers(), &routes.config.stream);
    match join(request, shard, routes).await {
        Answer::Response(mut response) => {
            for (name, value) in cors {
                if let Ok(value) = value.parse() {
                    response.headers_mut().insert(name, value);
                }
            }
            Answer::Response(response)
        }
        joining => joining,
    }
}

async fn join(request: &Request<Incoming>, shard: &ShardHandle, routes: &Routes) -> Accepted {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Answer::Response(preflight()),
        _ => {
            let mut response =
                error(StatusCode::METHOD_NOT_ALLOWED, "streams are read with GET; publish on the admin socket");
            response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD, OPTIONS"));
            return Answer::Response(response);
        }
    }
    let query = request.uri().query().unwrap_or_default();
    let joining = match request::parse(query, request.headers(), &routes.config.stream) {
        Ok(joining) => joining,
        Err(what) => return Answer::Response(error(StatusCode::BAD_REQUEST, &what.to_string())),
    };
    let Some(permit) = routes.client_limit.acquire() else {
        routes.metrics.refused.add(1);
        return Answer::Response(full(routes));
    };
    if request.method() == Method::HEAD {
        let mut response = Response::new(Full::default());
        let stream = header::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, stream);
        response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
        return Answer::Response(response);
    }
    let joining = joining.into_joining(permit);
    match shard.hold(&joining.channels).await {
        Ok(hold) => Answer::Take((joining, hold)),
        Err(channel) => {
            let what =
                format!("channel {channel} is refused by the source (Redis's ACL): ask for another, or allow it there");
            Answer::Response(error(StatusCode::FORBIDDEN, &what))
        }
    }
}

/// The answer to a client too many.
fn full(routes: &Routes) -> Response<Full<Bytes>> {
    let limit = routes.config.stream.max_clients;
    let what = format!("{limit} clients are connected, and no more are allowed (stream.max_clients)");
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, &what);
    let seconds = routes.config.stream.retry.pick().as_secs().max(1);
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

/// The answer to a browser that asks whether a page may send `Last-Event-ID`.
fn preflight() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let allowed = "Last-Event-ID, X-Requested-With, Accept, Cache-Control";
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, header::HeaderValue::from_static(allowed));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, header::HeaderValue::from_static("GET"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, header::HeaderValue::from_static("86400"));
    response
}

fn error(status: StatusCode, what: &str) -> Response<Full<Bytes>> {
    let body = format!("{}\n", serde_json::json!({ "status": "error", "error": what }));
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}
