//! A connection that hyper serves until a shard takes it for a stream, or a successor takes it at an upgrade. It knows no route.
//!
//! Invariant: a connection is taken only by the request under way, or while no request is under way. So no bytes that hyper still
//! has to write are lost.

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
    /// The response. If it has `Connection: close`, the connection ends after it, and is not handed over.
    Response(Response<Full<Bytes>>),
    /// The request takes the connection: hyper writes nothing more to it.
    Take(T),
}

/// How hyper's service of a connection ended.
pub enum Ended<T> {
    /// It was closed.
    Closed,
    /// A request took it.
    Taken(AttachedStream, T),
    /// It was left between two requests, for a successor.
    Left(Stream),
}

/// [`Ended`], while hyper still has the connection.
enum Part<T> {
    Closed,
    Taken(T),
    Left,
}

/// Serves a connection with `answer`, until it is closed or taken, or until `leave` has resolved and no request is under way.
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
        // Boxed, because hyper needs a future that is Unpin.
        Box::pin(async move {
            match answering.await {
                Answer::Response(response) => {
                    // After `Connection: close`, the rest of the bytes may be an unread body, so the connection is not handed over.
                    let closes = response.headers().contains_key(header::CONNECTION);
                    busy.store(closes, Ordering::Relaxed);
                    Ok::<_, Infallible>(response)
                }
                Answer::Take(what) => {
                    // Never waits: a connection has one request at a time.
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
        // Ignore errors: they are the client's, and hyper has answered what it could.
        let closed = Pin::new(&mut connection).poll(cx).is_ready();
        if let Poll::Ready(Some(what)) = taken.poll_recv(cx) {
            return Poll::Ready(Part::Taken(what));
        }
        leaving = leaving || leave.as_mut().poll(cx).is_ready();
        if closed {
            return Poll::Ready(Part::Closed);
        }
        // hyper has written the last response by now, unless the socket is full.
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
