//! A connection that hyper serves until a shard takes it, for a stream, or another process, at an upgrade. It knows no route.
//!
//! Invariant: a connection is taken only when no response is under way on it, or by the request that is under way; so
//! nothing that hyper still had to write is lost.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use crate::stream::{AttachedStream, Stream};

/// The outcome of a request.
pub enum Answer<T> {
    /// The response; with `Connection: close`, the connection is not handed over any more.
    Response(Response<Full<Bytes>>),
    /// The request takes the connection: hyper writes nothing more to it.
    Take(T),
}

/// How hyper's part of a connection ended.
pub enum Ended<T> {
    /// It was closed.
    Closed,
    /// A request took it.
    Taken(AttachedStream, T),
    /// It was handed over between two requests.
    Left(Stream),
}

/// The same, while the connection is still hyper's.
enum Part<T> {
    Closed,
    Taken(T),
    Left,
}

/// Serves a connection by `answer`. When `leave` resolves, and no request is under way, hyper's part ends.
pub async fn serve<T, F>(
    stream: AttachedStream,
    builder: &http1::Builder,
    answer: impl Fn(Request<Incoming>) -> F,
    leave: impl Future<Output = ()>,
) -> Ended<T>
where
    F: Future<Output = Answer<T>>,
{
    let (take, mut taken) = mpsc::channel::<T>(1);
    let busy = Arc::new(AtomicBool::new(false));
    let stalled = stream.stalled();
    let service = service_fn(|request| {
        busy.store(true, Ordering::Relaxed);
        let (answering, take, busy) = (answer(request), take.clone(), Arc::clone(&busy));
        // A box, since hyper wants futures that it may move.
        Box::pin(async move {
            match answering.await {
                Answer::Response(response) => {
                    // What is left of a request that was answered before its end is no request.
                    let closes = response.headers().contains_key(header::CONNECTION);
                    busy.store(closes, Ordering::Relaxed);
                    Ok::<_, Infallible>(response)
                }
                Answer::Take(what) => {
                    // There is one request at a time on a connection, so there is room.
                    let _ = take.send(what).await;
                    std::future::pending().await
                }
            }
        })
    });
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut leave = pin!(leave);
    let mut leaving = false;
    let ended = poll_fn(|cx| {
        // Errors of a connection are its client's: hyper has answered what could be answered.
        let closed = Pin::new(&mut connection).poll(cx).is_ready();
        if let Poll::Ready(Some(what)) = taken.poll_recv(cx) {
            return Poll::Ready(Part::Taken(what));
        }
        leaving = leaving || leave.as_mut().poll(cx).is_ready();
        if closed {
            return Poll::Ready(Part::Closed);
        }
        // A response that was made has been written by now, unless the socket would not take all of it.
        let under_way = busy.load(Ordering::Relaxed) || stalled.load(Ordering::Relaxed);
        if leaving && !under_way { Poll::Ready(Part::Left) } else { Poll::Pending }
    });
    match ended.await {
        Part::Closed => Ended::Closed,
        Part::Taken(what) => Ended::Taken(connection.into_parts().io.into_inner(), what),
        Part::Left => {
            let parts = connection.into_parts();
            match parts.io.into_inner().into_stream(parts.read_buf) {
                Ok(stream) => Ended::Left(stream),
                Err(_) => Ended::Closed,
            }
        }
    }
}
