//! One connection on the public socket: hyper parses its requests; once one is accepted, the connection is taken from hyper
//! and given to the shard.
//!
//! The service hands an accepted request over by a channel and stays pending, so hyper writes nothing; the driver sees the
//! request, ends hyper's part and frees hyper's buffers.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;

use super::{Accepted, Routes, answer};
use crate::shard::{AttachedStream, Hold, Joining, ShardHandle, Stream};

/// Longest time for a request's head to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Most header lines of a request.
const MAX_HEADERS: usize = 100;

/// Serves one connection until it ends or belongs to the shard.
pub(super) async fn serve(stream: Stream, shard: ShardHandle, routes: Rc<Routes>) {
    let stream = match stream.attach() {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "a connection was dropped: it could not be registered"),
    };
    if let Some((stream, joining, hold)) = until_accepted(stream, &shard, &routes).await {
        match stream.detach() {
            Ok(fd) => shard.attach(fd, joining, hold),
            Err(error) => tracing::warn!(%error, "a client was dropped: its connection could not be taken over"),
        }
    }
}

/// Lets hyper answer requests until one is accepted as a stream or a poll.
async fn until_accepted(
    stream: AttachedStream,
    shard: &ShardHandle,
    routes: &Rc<Routes>,
) -> Option<(AttachedStream, Joining, Hold)> {
    let (accepted, mut requests) = mpsc::channel::<(Joining, Hold)>(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let (accepted, shard, routes) = (accepted.clone(), shard.clone(), Rc::clone(routes));
        // A box, since hyper wants futures that it may move.
        Box::pin(async move {
            match answer(&request, &shard, &routes).await {
                Accepted::Response(response) => Ok::<_, Infallible>(response),
                Accepted::Joining(joining, hold) => {
                    // The driver takes it: there is one request at a time on a connection.
                    let _ = accepted.send((joining, hold)).await;
                    std::future::pending().await
                }
            }
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let (joining, hold) = poll_fn(|cx| {
        // Errors of a connection are its client's: hyper has answered what could be answered.
        let ended = Pin::new(&mut connection).poll(cx).is_ready();
        if let Poll::Ready(Some(accepted)) = requests.poll_recv(cx) {
            return Poll::Ready(Some(accepted));
        }
        if ended { Poll::Ready(None) } else { Poll::Pending }
    })
    .await?;
    let parts = connection.into_parts();
    Some((parts.io.into_inner(), joining, hold))
}
