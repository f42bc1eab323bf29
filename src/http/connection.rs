//! A connection that hyper serves until a shard takes it for a stream, or a successor takes it at an upgrade. It knows no route.
//!
//! Invariant: a connection is taken only while no response waits to be written, by the request under way or between two requests. So
//! no bytes that hyper still has to write are lost. The only exception is a client that does not read its answer for too long.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
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
    /// The response. If it has `Connection: close`, the connection ends after it, and no successor gets it.
    Response(Response<Full<Bytes>>),
    /// The request takes the connection: hyper writes nothing more to it.
    Take(T),
}

/// How hyper's service of a connection ended.
pub enum Ended<T> {
    /// It was closed.
    Closed,
    /// A request took it. The bytes were read after the request.
    Taken(AttachedStream, Bytes, T),
    /// It was left between two requests, for a successor.
    Left(Stream),
    /// It was closed before its client had read the whole answer, because `give_up` had resolved.
    Unread,
}

/// [`Ended`], while hyper still has the connection.
enum Part<T> {
    Closed,
    Taken(T),
    Left,
    Unread,
}

/// Where a connection stands between its requests and its responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchange {
    /// No request is under way. The last response may still be unwritten.
    Idle,
    /// A request is being answered.
    Answering,
    /// The last response is made, and the connection ends after it.
    Closing,
}

/// What may be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Allowed {
    /// A successor may have it.
    Leaving,
    /// The request under way may take it.
    Taking,
    /// It may only be closed, if its client does not read.
    Closing,
}

impl Exchange {
    /// What may be done with the connection. `stalled`: the socket is full, and hyper has more to write.
    fn allows(self, stalled: bool) -> Allowed {
        match (self, stalled) {
            (_, true) | (Self::Closing, _) => Allowed::Closing,
            (Self::Answering, false) => Allowed::Taking,
            (Self::Idle, false) => Allowed::Leaving,
        }
    }
}

/// The exchange of a connection, which its requests and its loop share.
#[derive(Clone)]
struct SharedExchange {
    /// Locked for one instruction only.
    exchange: Arc<Mutex<Exchange>>,
    /// Whether the socket is full, and hyper has more to write.
    stalled: Arc<AtomicBool>,
}

impl SharedExchange {
    fn set(&self, exchange: Exchange) {
        *crate::lock::lock(&self.exchange) = exchange;
    }

    fn allows(&self) -> Allowed {
        crate::lock::lock(&self.exchange).allows(self.stalled.load(Ordering::Relaxed))
    }
}

/// Serves a connection with `answer`, until it is closed or taken, or until `leave` has resolved and no request is under way. Once
/// `give_up` has resolved, the connection is closed if its client does not read an answer.
pub async fn serve<T, F>(
    stream: AttachedStream,
    builder: &http1::Builder,
    answer: impl Fn(Request<Incoming>) -> F,
    leave: impl Future<Output = ()>,
    give_up: impl Future<Output = ()>,
) -> Ended<T>
where
    F: Future<Output = Answer<T>>,
{
    let (take, mut taken) = mpsc::channel::<T>(1);
    let exchange = SharedExchange { exchange: Arc::new(Mutex::new(Exchange::Idle)), stalled: stream.stalled() };
    let service = service_fn(|request| {
        exchange.set(Exchange::Answering);
        let (answering, take, exchange) = (answer(request), take.clone(), exchange.clone());
        // Boxed, because hyper needs a future that is Unpin.
        Box::pin(async move {
            match answering.await {
                Answer::Response(response) => {
                    // After `Connection: close`, the rest of the bytes may be an unread body, so no successor gets the connection.
                    let closes = response.headers().contains_key(header::CONNECTION);
                    exchange.set(if closes { Exchange::Closing } else { Exchange::Idle });
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
    let (mut leave, mut give_up) = (pin!(leave), pin!(give_up));
    let (mut leaving, mut giving_up) = (false, false);
    let ended = poll_fn(|cx| {
        // Ignore errors: they are the client's, and hyper has answered what it could.
        let closed = Pin::new(&mut connection).poll(cx).is_ready();
        leaving = leaving || leave.as_mut().poll(cx).is_ready();
        giving_up = giving_up || give_up.as_mut().poll(cx).is_ready();
        // hyper has written the last response by now, unless the socket is full.
        match exchange.allows() {
            Allowed::Taking => match taken.poll_recv(cx) {
                Poll::Ready(Some(what)) => Poll::Ready(Part::Taken(what)),
                _ if closed => Poll::Ready(Part::Closed),
                _ => Poll::Pending,
            },
            _ if closed => Poll::Ready(Part::Closed),
            Allowed::Leaving if leaving => Poll::Ready(Part::Left),
            Allowed::Closing if giving_up => Poll::Ready(Part::Unread),
            _ => Poll::Pending,
        }
    });
    match ended.await {
        Part::Closed => Ended::Closed,
        Part::Unread => Ended::Unread,
        Part::Taken(what) => {
            let parts = connection.into_parts();
            Ended::Taken(parts.io.into_inner(), parts.read_buf, what)
        }
        Part::Left => {
            let parts = connection.into_parts();
            match parts.io.into_inner().into_stream(parts.read_buf) {
                Ok(stream) => Ended::Left(stream),
                Err(_) => Ended::Closed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_with_an_unwritten_response_is_neither_taken_nor_left() {
        for exchange in [Exchange::Idle, Exchange::Answering, Exchange::Closing] {
            assert_eq!(exchange.allows(true), Allowed::Closing, "{exchange:?}");
        }
        assert_eq!(Exchange::Idle.allows(false), Allowed::Leaving);
        assert_eq!(Exchange::Answering.allows(false), Allowed::Taking);
        assert_eq!(Exchange::Closing.allows(false), Allowed::Closing);
    }
}
