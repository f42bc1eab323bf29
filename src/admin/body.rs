//! Reads bodies of requests on the admin socket, with limits on time, length, and the memory of all bodies together. It does not
//! parse them.
//!
//! Invariant: each byte of a body is covered by a permit, until the body's messages have been published.

use std::{convert::Infallible, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body as HttpBody;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::messages::Limits;
use crate::http::{
    Answer,
    reply::{self, Reply},
};

/// Longest time for a body to arrive, including the wait for memory.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Memory for the bodies of callers that may publish.
const MEMORY: usize = 48 << 20;
/// Memory for the bodies of callers whose key is in the body. It is separate, so that they can't use up the memory of the others.
const MEMORY_WITHOUT_KEY: usize = 16 << 20;
/// Memory is counted in units of this many bytes.
const UNIT: usize = 1 << 10;
/// Most bytes of a refused request's body that are read and dropped so that the connection can stay open.
const DROPPED: usize = 64 << 10;
/// Longest time for reading and dropping them.
const TIME_TO_DROP: Duration = Duration::from_secs(1);

/// The memory that all bodies share.
pub struct Bodies {
    with_right: Semaphore,
    without_key: Semaphore,
}

/// A complete body, and the permit for its memory.
#[derive(Debug)]
pub(super) struct Body<'a> {
    pub(super) bytes: Bytes,
    _permit: Option<SemaphorePermit<'a>>,
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the request has more than {0} bytes")]
    TooLong(usize),
    #[error("the request's body was not whole after {0:?}; nothing was published")]
    TooSlow(Duration),
    #[error("requests under way use all memory that there is for them; nothing was published: publish again")]
    NoMemory,
    #[error("the request's body broke off: {0}; nothing was published")]
    Broken(String),
}

impl Bodies {
    /// Memory for bodies with messages of at most `max_message` bytes. It is at least enough for one body of the largest size.
    #[must_use]
    pub fn new(max_message: usize) -> Self {
        let longest = Limits::new(max_message).longest_body();
        let memory = |bytes: usize| Semaphore::new(units(bytes.max(longest)) as usize);
        Self { with_right: memory(MEMORY), without_key: memory(MEMORY_WITHOUT_KEY) }
    }

    /// Reads a body of at most `longest` bytes, `within` a time. If there is no memory: a body with a `Content-Length` whose sender
    /// `has_right` waits for memory, and any other body is refused.
    pub(super) async fn read<B>(
        &self,
        body: B,
        longest: usize,
        has_right: bool,
        within: Duration,
    ) -> Result<Body<'_>, ReadError>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let memory = if has_right { &self.with_right } else { &self.without_key };
        timeout(within, read(body, longest, memory, has_right)).await.unwrap_or(Err(ReadError::TooSlow(within)))
    }
}

async fn read<B>(mut body: B, longest: usize, memory: &Semaphore, waits: bool) -> Result<Body<'_>, ReadError>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let declared = body.size_hint().exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if declared.is_some_and(|length| length > longest) {
        return Err(ReadError::TooLong(longest));
    }
    let mut permit = match declared {
        // The semaphore is never closed.
        Some(length) if waits => memory.acquire_many(units(length)).await.ok(),
        _ => None,
    };
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| ReadError::Broken(error.to_string()))?.into_data() else { continue };
        length += data.len();
        if length > longest {
            return Err(ReadError::TooLong(longest));
        }
        let held = permit.as_ref().map_or(0, SemaphorePermit::num_permits);
        let missing = (units(length) as usize).saturating_sub(held);
        if missing > 0 {
            let missing = u32::try_from(missing).unwrap_or(u32::MAX);
            let added = memory.try_acquire_many(missing).map_err(|_| ReadError::NoMemory)?;
            match &mut permit {
                Some(permit) => permit.merge(added),
                None => permit = Some(added),
            }
        }
        // Most bodies arrive in one piece, which is not copied.
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.reserve(declared.unwrap_or(0).max(length));
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    Ok(Body { bytes: if more.is_empty() { first } else { more.freeze() }, _permit: permit })
}

/// Answers a request without using its body. A short body is read and dropped. After a longer one the connection is closed, so that
/// the rest of the body is not read as a request.
pub(super) async fn refuse<B>(body: B, refusal: Reply) -> Answer<Infallible>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    Answer::Response(if drop_rest(body).await { refusal } else { reply::closing(refusal) })
}

/// Reads and drops a body. Returns whether it was complete.
async fn drop_rest<B>(mut body: B) -> bool
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > DROPPED as u64 {
        return false;
    }
    let whole = timeout(TIME_TO_DROP, async {
        let mut dropped = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > DROPPED {
                return false;
            }
        }
        true
    });
    whole.await.unwrap_or(false)
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use http_body_util::Full;
    use hyper::body::{Frame, SizeHint};

    use super::*;

    const NO_TIME: Duration = Duration::from_millis(20);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A body of pieces. If it `hangs`, it never ends.
    struct Pieces {
        pieces: Vec<&'static [u8]>,
        declared: Option<u64>,
        hangs: bool,
    }

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.pieces.is_empty() {
                true if self.hangs => Poll::Pending,
                true => Poll::Ready(None),
                false => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.pieces.remove(0)))))),
            }
        }

        fn size_hint(&self) -> SizeHint {
            self.declared.map_or_else(SizeHint::default, SizeHint::with_exact)
        }
    }

    fn pieces(pieces: &[&'static [u8]], declared: Option<u64>, hangs: bool) -> Pieces {
        Pieces { pieces: pieces.to_vec(), declared, hangs }
    }

    /// A body of that many bytes.
    fn long(bytes: usize) -> Full<Bytes> {
        Full::new(vec![b'x'; bytes].into())
    }

    #[tokio::test]
    async fn a_body_is_complete_or_its_error_is_returned() {
        let bodies = Bodies::new(1 << 20);
        let read = |body| bodies.read(body, 6, true, NO_TIME);
        assert_eq!(read(pieces(&[b"ab", b"", b"cd", b"ef"], None, false)).await.unwrap().bytes, "abcdef");
        assert_eq!(read(pieces(&[b"abcdef"], Some(6), false)).await.unwrap().bytes, "abcdef");
        assert_eq!(read(pieces(&[], Some(0), false)).await.unwrap().bytes, "");
        assert!(matches!(read(pieces(&[], Some(7), true)).await, Err(ReadError::TooLong(6))), "not waited for");
        assert!(matches!(read(pieces(&[b"abcd", b"efg"], None, true)).await, Err(ReadError::TooLong(6))));
        assert!(matches!(read(pieces(&[b"a"], Some(6), true)).await, Err(ReadError::TooSlow(_))));
    }

    #[tokio::test]
    async fn bodies_wait_for_memory_or_are_refused_and_those_without_key_have_their_own() {
        let bodies = Bodies::new(1 << 20);
        let read = |body, has_right, within| bodies.read(body, 64 << 20, has_right, within);
        let all = read(long(MEMORY), true, PATIENCE).await.unwrap();
        assert!(matches!(read(long(1), true, NO_TIME).await, Err(ReadError::TooSlow(_))), "waits");
        let without_length = bodies.read(pieces(&[b"a"], None, false), 9, true, PATIENCE).await;
        assert!(matches!(without_length, Err(ReadError::NoMemory)));
        let without_key = read(long(MEMORY_WITHOUT_KEY), false, PATIENCE).await.unwrap();
        assert!(matches!(read(long(1), false, PATIENCE).await, Err(ReadError::NoMemory)));
        drop(without_key);
        read(long(1), false, PATIENCE).await.unwrap();
        let (waited, ()) = tokio::join!(read(long(1), true, PATIENCE), async { drop(all) });
        assert_eq!(waited.unwrap().bytes, "x");
    }

    #[tokio::test]
    async fn a_refused_body_is_dropped_only_if_it_is_short_and_complete() {
        assert!(drop_rest(pieces(&[b"abc"], Some(3), false)).await);
        assert!(!drop_rest(pieces(&[], Some(DROPPED as u64 + 1), true)).await);
        assert!(!drop_rest(long(DROPPED + 1)).await);
    }
}
