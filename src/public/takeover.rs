//! One connection on the public socket: hyper serves its requests until one of them becomes a stream or poll. Then the connection is
//! taken from hyper and passed to the shard. A request that still waits when an upgrade begins crosses with its connection: the
//! successor answers it. If the daemon stops instead, it is answered at once. It parses nothing itself.

use std::{future::Future, rc::Rc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::time::sleep;

use super::{Permit, Public, Taking, answer, stopping, unanswered};
use crate::{
    http::{self, Answer, Ended},
    shard::ShardHandle,
    stream::Stream,
};

/// Longest time for a request's head to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 32 << 10;
/// Most header lines of a request.
const MAX_HEADERS: usize = 100;

/// At a stop, how long a connection without a request stays open: a request that has just been sent is answered.
const IDLE_AT_STOP: Duration = Duration::from_millis(100);
/// At a stop, longest wait for a client that does not read its answer.
const UNREAD_AT_STOP: Duration = Duration::from_secs(1);

/// Serves one connection until it ends or is passed to the shard.
pub(super) async fn serve(mut stream: Stream, shard: ShardHandle, public: Rc<Public>) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES);
    loop {
        // A connection inherited from a predecessor, or served here again, has no permit yet.
        let permit = stream.take_permit().unwrap_or_else(|| public.client_limit.acquire_connection_over_limit());
        let permit = Rc::new(Permit::new(permit));
        let answer = |request| {
            let (shard, public, permit) = (shard.clone(), Rc::clone(&public), Rc::clone(&permit));
            async move {
                tokio::select! {
                    biased;
                    answer = answer(&request, &shard, &public, &permit) => answer,
                    retry = shard.draining() => Answer::Response(stopping(&request, &public, retry)),
                    // It waits for a source. The successor answers it, so that the upgrade does not wait too.
                    () = shard.pausing() => Answer::Take(Taking::ForSuccessor(unanswered::rewrite(&request))),
                }
            }
        };
        let attached = match stream.attach() {
            Ok(attached) => attached,
            Err(error) => return tracing::warn!(%error, "a connection was dropped: it could not be registered"),
        };
        let left = match http::serve(attached, &builder, answer, leave(&shard), give_up(&shard)).await {
            Ended::Closed => return,
            Ended::Unread => {
                public.metrics.unread.add(1);
                return tracing::debug!("a connection was closed at the stop: its client does not read its answer");
            }
            Ended::Taken(taken, _, Taking::ByShard(joining, hold)) => {
                return match taken.detach() {
                    Ok(fd) => shard.attach(fd, *joining, hold),
                    Err(error) => {
                        tracing::warn!(%error, "a client was dropped: its connection could not be taken over")
                    }
                };
            }
            Ended::Taken(taken, read, Taking::ForSuccessor(request)) => match taken
                .into_stream(request.followed_by(read))
            {
                Ok(left) => left,
                Err(error) => return tracing::warn!(%error, "a request was dropped: its connection could not be kept"),
            },
            Ended::Left(left) => left,
        };
        if shard.is_draining() {
            return;
        }
        if shard.is_pausing() {
            return shard.keep_for_successor(left);
        }
        // The upgrade failed before its request was answered: it is served here again.
        stream = left;
    }
}

/// Resolves when a connection is to end between two requests: at once for an upgrade, a little later for a stop.
fn leave(shard: &ShardHandle) -> impl Future<Output = ()> + use<> {
    let (pausing, draining) = (shard.pausing(), shard.draining());
    async move {
        tokio::select! {
            () = pausing => {}
            _ = draining => sleep(IDLE_AT_STOP).await,
        }
    }
}

/// Resolves when a connection is to be closed although its client has not read the answer.
fn give_up(shard: &ShardHandle) -> impl Future<Output = ()> + use<> {
    let draining = shard.draining();
    async move {
        draining.await;
        sleep(UNREAD_AT_STOP).await;
    }
}
