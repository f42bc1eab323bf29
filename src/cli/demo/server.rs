//! The page's server on loopback, in nginx's place: the page, `/sse/` for the public socket, `/publish` for the admin socket.
//!
//! For browsers it does what the nginx snippet does: it strips the prefix, sets `X-Real-IP` and forwards only a few other headers.
//! While the daemon doesn't answer, it answers a stream with a `retry:` and no event. Pages of other sites can't publish through it.

use std::{convert::Infallible, io, net::Ipv4Addr, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use hyperlocal::UnixConnector;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{commands::Places, folder::Folder, page::ASSETS, redis::Redis};

/// The name of the file with the demo's addresses, from which the page makes commands.
const PLACES: &str = "places.json";

/// The request headers that are forwarded.
const FORWARDED: [HeaderName; 4] = [
    header::ACCEPT,
    header::CONTENT_TYPE,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("x-requested-with"),
];
/// The response headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 2] = [header::CONNECTION, header::TRANSFER_ENCODING];

/// How long accepting pauses when the process has no file descriptors left.
const OUT_OF_FILES: Duration = Duration::from_millis(100);
/// At the end, longest wait for answers under way.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

type Body = BoxBody<Bytes, hyper::Error>;

/// The server, running.
pub(super) struct Server {
    port: u16,
    /// Ends the server and its connections.
    stop: watch::Sender<bool>,
    serving: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Listens on `port`, or on any free port, and serves.
    ///
    /// # Errors
    /// The port is in use, or this user may not listen on it.
    pub(super) async fn start(folder: &Folder, redis: &Redis, port: Option<u16>) -> anyhow::Result<Self> {
        let wanted = port.unwrap_or(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted))
            .await
            .with_context(|| format!("can't listen on 127.0.0.1:{wanted}"))?;
        let port = listener.local_addr()?.port();
        let mut client = Client::builder(TokioExecutor::new());
        let backends = Backends {
            public: folder.public(),
            admin: folder.admin(),
            places: Places::new(folder, redis, port).json(),
            client: client.pool_max_idle_per_host(0).build(UnixConnector),
        };
        let (stop, stopped) = watch::channel(false);
        Ok(Self { port, stop, serving: tokio::spawn(accept(listener, Arc::new(backends), stopped)) })
    }

    /// The port it listens on.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the server can't accept any more, and returns the reason.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.serving).await {
            Ok(Ok(())) => anyhow::anyhow!("the page's server has ended"),
            Ok(Err(error)) => anyhow::Error::new(error).context("the page's port is lost"),
            Err(error) => anyhow::Error::new(error),
        }
    }

    /// Stops the server after the requests under way are answered. Call it when the daemon has ended the streams.
    pub(super) async fn stop(mut self) {
        let _ = self.stop.send(true);
        if timeout(ENDS_WITHIN, &mut self.serving).await.is_err() {
            self.serving.abort();
        }
    }
}

async fn accept(listener: TcpListener, backends: Arc<Backends>, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let mut serving = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => drop(serving.spawn(serve(stream, Arc::clone(&backends), stopped.clone()))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EMFILE) => sleep(OUT_OF_FILES).await,
            Err(error) => return Err(error),
        }
        while serving.try_join_next().is_some() {}
    }
    drop(listener);
    while serving.join_next().await.is_some() {}
    Ok(())
}

async fn serve(stream: TcpStream, backends: Arc<Backends>, mut stopped: watch::Receiver<bool>) {
    // Without it the kernel may delay an event by 40 ms.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let backends = Arc::clone(&backends);
        async move { Ok::<_, Infallible>(backends.answer(request).await) }
    });
    let mut connection =
        pin!(http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service));
    let stopping = async { drop(stopped.wait_for(|stopped| *stopped).await) };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the page ended badly");
    }
}

/// The daemon's sockets, and the client for them.
struct Backends {
    public: PathBuf,
    admin: PathBuf,
    places: String,
    client: Client<UnixConnector, Incoming>,
}

impl Backends {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        if !is_local(&request) {
            // Else a page of a site whose name resolves to 127.0.0.1 could publish and read here (DNS rebinding).
            let text = "Open this page as 127.0.0.1 or localhost.\n";
            return plain(StatusCode::MISDIRECTED_REQUEST, "text/plain", text);
        }
        if let Some(path) = path.strip_prefix("/sse/") {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            let target = Uri::from(hyperlocal::Uri::new(&self.public, &format!("/{path}{query}")));
            let stream = path.is_empty() && !wants_json(&request);
            return self.forward(request, target).await.unwrap_or_else(|_| unavailable(stream));
        }
        if path == "/publish" {
            let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
            if matches!(site, Some(b"cross-site" | b"same-site")) {
                return plain(StatusCode::FORBIDDEN, "text/plain", "Only the demo's own page publishes here.\n");
            }
            // The admin socket refuses requests of pages, by this header. The demo's page may publish.
            request.headers_mut().remove(header::ORIGIN);
            let target = Uri::from(hyperlocal::Uri::new(&self.admin, "/publish"));
            return self.forward(request, target).await.unwrap_or_else(|_| unavailable(false));
        }
        let name = if path == "/" { "index.html" } else { path.trim_start_matches('/') };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "Only GET.\n");
        }
        if name == PLACES {
            return plain(StatusCode::OK, "application/json", self.places.clone());
        }
        match ASSETS.iter().find(|asset| asset.name == name) {
            Some(asset) => plain(StatusCode::OK, asset.content_type, asset.text),
            None => plain(StatusCode::NOT_FOUND, "text/plain", "Nothing is here.\n"),
        }
    }

    async fn forward(&self, request: Request<Incoming>, target: Uri) -> Result<Response<Body>, Error> {
        let (mut head, body) = request.into_parts();
        head.uri = target;
        let mut headers = header::HeaderMap::new();
        for name in FORWARDED {
            if let Some(value) = head.headers.remove(&name) {
                headers.insert(name, value);
            }
        }
        headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1"));
        headers.insert("x-real-ip", HeaderValue::from_static("127.0.0.1"));
        head.headers = headers;
        let mut response = self.client.request(Request::from_parts(head, body)).await?;
        for name in HOP_BY_HOP {
            response.headers_mut().remove(name);
        }
        Ok(response.map(|body| body.boxed()))
    }
}

fn wants_json(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/event-stream")
}

/// Whether the request's host is this machine. Any port is right, since an ssh tunnel may use another one.
fn is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "127.0.0.1" | "localhost")
}

/// The response while the daemon doesn't answer. For a stream it is a 200: EventSource never retries after another status.
fn unavailable(stream: bool) -> Response<Body> {
    if stream {
        // No blank line after it: a blank line would reset the browser's last event id.
        let retry = format!("retry: {}\n", fastrand::u32(1000..4000));
        return plain(StatusCode::OK, "text/event-stream", retry);
    }
    plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "application/json",
        "{\"status\":\"error\",\"error\":\"the daemon does not answer\"}\n",
    )
}

fn plain(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
