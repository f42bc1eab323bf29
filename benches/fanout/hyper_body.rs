//! The obvious server to compare with: hyper with a response body for each client, fed through a channel.
//!
//! Its frames come in on standard input, as the bare loop's do. One thread, as one shard.

use std::{convert::Infallible, future::ready, io::BufReader, path::Path, pin::Pin, task::Poll, thread};

use bytes::Bytes;
use hyper::{
    Response,
    body::{Body, Frame},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::bare_loop::read_batch;

struct Feed(UnboundedReceiver<Bytes>);

impl Body for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(|frame| Ok(Frame::data(frame))))
    }
}

/// Serves on `path` until standard input ends.
pub(crate) fn serve(path: &Path) -> anyhow::Result<()> {
    let (publish, mut published) = unbounded_channel();
    thread::spawn(move || {
        let mut commands = BufReader::with_capacity(256 << 10, std::io::stdin());
        while let Ok(frames) = read_batch(&mut commands) {
            if publish.send(frames).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = UnixListener::bind(path)?;
        let (enter, mut entered) = unbounded_channel();
        let mut clients: Vec<UnboundedSender<Bytes>> = Vec::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    let enter: UnboundedSender<UnboundedSender<Bytes>> = enter.clone();
                    tokio::task::spawn_local(async move {
                        let service = service_fn(|_| {
                            let (feed, body) = unbounded_channel();
                            let _ = enter.send(feed);
                            let response = Response::builder()
                                .header(header::CONTENT_TYPE, "text/event-stream")
                                .body(Feed(body));
                            ready(response)
                        });
                        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                    });
                }
                Some(feed) = entered.recv() => clients.push(feed),
                frames = published.recv() => {
                    let Some(frames) = frames else { return Ok(()) };
                    for frame in frames.into_iter().map(Bytes::from) {
                        clients.retain(|client| client.send(frame.clone()).is_ok());
                    }
                }
            }
        }
    })
}
