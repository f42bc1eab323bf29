//! A Redis connection's stream without its messages, which are read here: the client library reads everything else.
//!
//! The library takes 1.2 us and six allocations to read one message, more than all later steps together. A message has one
//! fixed form, so it is read here, and the messages of one read are passed on together. The library logs in, subscribes and
//! reads the confirmations.
//!
//! Invariant: the bytes are divided at the ends of whole frames only, in order. Each frame is either a message, which is passed
//! on, or given to the library byte for byte. A confirmation never comes before a message that was sent ahead of it. That a pattern
//! is confirmed is passed on too, in its place between the messages.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How every message on a subscribed channel begins in RESP3.
const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n";
/// The same on a channel of SSUBSCRIBE.
const SHARDED_MESSAGE: &[u8] = b">3\r\n$8\r\nsmessage\r\n";
/// The same for a subscribed pattern, which follows, before channel and payload.
const PATTERN_MESSAGE: &[u8] = b">4\r\n$8\r\npmessage\r\n";
/// How the confirmations of patterns begin. The pattern follows.
const PATTERN_SUBSCRIBED: &[u8] = b">3\r\n$10\r\npsubscribe\r\n";
const PATTERN_UNSUBSCRIBED: &[u8] = b">3\r\n$12\r\npunsubscribe\r\n";
/// How a frame begins that says that a channel of SSUBSCRIBE is not subscribed to any more. The name follows.
const UNSUBSCRIBED: &[u8] = b">3\r\n$12\r\nsunsubscribe\r\n";
/// Most bytes of one read, where messages are not longer.
const CHUNK: usize = 64 << 10;

/// Why Redis sent a message, and its channel, as Redis sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivered<'a> {
    /// The pattern for which it was sent; `None`: for the channel.
    pub(super) pattern: Option<&'a [u8]>,
    pub(super) channel: &'a [u8],
}

/// Takes the messages of a read, and the confirmations of patterns, in order.
pub(super) trait Messages {
    /// A message and its payload, as Redis sent it.
    fn take(&mut self, delivered: Delivered<'_>, payload: &[u8]);
    /// A message was longer than the tap takes, and was dropped. It comes after all that were taken.
    fn too_long(&mut self, delivered: Delivered<'_>, bytes: usize);
    /// Redis has confirmed that a pattern is subscribed, or (`false`) that it is not any more.
    fn pattern_changed(&mut self, _pattern: &[u8], _subscribed: bool) {}
    /// Redis has ended the subscription to a channel of SSUBSCRIBE. True if it was not asked to: the library must not see the frame,
    /// which it would take for the answer to whatever it waits for.
    fn ended(&mut self, _channel: &[u8]) -> bool {
        false
    }
    /// The stream has ended in the middle of a frame: the server has dropped what it had still to send.
    fn broke_off(&mut self) {}
    /// Nothing more has been read: publish what there is.
    fn flush(&mut self);
}

/// See the module.
pub(super) struct Tap<S, M> {
    stream: S,
    messages: M,
    /// The buffer for reads. `..filled` is a frame of which the end has not come yet.
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes that the library has still to read begin at `given`.
    rest: Vec<u8>,
    given: usize,
    /// Most bytes of a payload.
    longest: usize,
    /// Bytes still to be dropped of a message that is longer.
    skip: usize,
}

impl<S, M: Messages> Tap<S, M> {
    /// A tap that drops messages whose payload is longer than `longest` bytes.
    pub(super) fn new(stream: S, messages: M, longest: usize) -> Self {
        Self { stream, messages, buffer: vec![0; CHUNK], filled: 0, rest: Vec::new(), given: 0, longest, skip: 0 }
    }

    /// Divides what was read into frames. `ended`: no more follows, and the library gets what is left.
    fn sort(&mut self, ended: bool) {
        let mut bytes = &self.buffer[..self.filled];
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            if let Some((delivered, payload, length)) =
                message(bytes).filter(|(_, payload, _)| payload.len() <= self.longest)
            {
                self.messages.take(delivered, payload);
                bytes = &bytes[length..];
            } else if let Some((delivered, payload, length)) = too_long(bytes, self.longest) {
                self.messages.too_long(delivered, payload);
                self.skip = length;
            } else if let Some(length) = frame_length(bytes) {
                if let Some((pattern, subscribed)) = pattern_change(bytes) {
                    self.messages.pattern_changed(pattern, subscribed);
                }
                if !unsubscribed(bytes).is_some_and(|channel| self.messages.ended(channel)) {
                    self.rest.extend_from_slice(&bytes[..length]);
                }
                bytes = &bytes[length..];
            } else {
                break;
            }
        }
        if ended {
            self.rest.extend_from_slice(bytes);
            bytes = &[];
        }
        let left = bytes.len();
        self.buffer.copy_within(self.filled - left..self.filled, 0);
        self.filled = left;
        if left == self.buffer.len() {
            self.buffer.resize(left * 2, 0); // A frame that is longer than the buffer.
        } else if left < CHUNK && self.buffer.len() > CHUNK {
            self.buffer.truncate(CHUNK);
            self.buffer.shrink_to_fit();
        }
        self.messages.flush();
    }
}

impl<S: AsyncRead + Unpin, M: Messages + Unpin> AsyncRead for Tap<S, M> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tap = self.get_mut();
        loop {
            if tap.given < tap.rest.len() {
                let some = (tap.rest.len() - tap.given).min(out.remaining());
                out.put_slice(&tap.rest[tap.given..tap.given + some]);
                tap.given += some;
                if tap.given == tap.rest.len() {
                    tap.rest.clear();
                    tap.rest.shrink_to(CHUNK);
                    tap.given = 0;
                }
                return Poll::Ready(Ok(()));
            }
            // This loop can't block other tasks of the thread: tokio's streams yield after a number of reads.
            let mut read = ReadBuf::new(&mut tap.buffer[tap.filled..]);
            let done = ready!(Pin::new(&mut tap.stream).poll_read(cx, &mut read));
            let bytes = read.filled().len();
            if bytes == 0 && (tap.filled > 0 || tap.skip > 0) {
                tap.messages.broke_off();
            }
            done?;
            tap.filled += bytes;
            tap.sort(bytes == 0);
            if bytes == 0 && tap.rest.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin, M: Unpin> AsyncWrite for Tap<S, M> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The message that `bytes` begin with, if it is one and all of it is there: the payload follows, and the length of it all.
fn message(bytes: &[u8]) -> Option<(Delivered<'_>, &[u8], usize)> {
    let (delivered, rest) = delivered(bytes)?;
    let (payload, rest) = bulk_string(rest)?;
    Some((delivered, payload, bytes.len() - rest.len()))
}

/// The message that `bytes` begin with, if its payload is longer than `longest`, whether or not all of it is there: the length
/// of the payload follows, and of it all.
fn too_long(bytes: &[u8], longest: usize) -> Option<(Delivered<'_>, usize, usize)> {
    let (delivered, rest) = delivered(bytes)?;
    let line = rest.strip_prefix(b"$")?;
    let digits = &line[..memchr::memchr(b'\r', line)?];
    let payload = number(digits).filter(|payload| *payload > longest)?;
    let before = bytes.len() - line.len() + digits.len() + 2;
    Some((delivered, payload, before.saturating_add(payload).saturating_add(2)))
}

/// The reason and the channel of the message that `bytes` begin with, and what follows.
fn delivered(bytes: &[u8]) -> Option<(Delivered<'_>, &[u8])> {
    let (pattern, rest) = match bytes.strip_prefix(MESSAGE).or_else(|| bytes.strip_prefix(SHARDED_MESSAGE)) {
        Some(rest) => (None, rest),
        None => {
            let (pattern, rest) = bulk_string(bytes.strip_prefix(PATTERN_MESSAGE)?)?;
            (Some(pattern), rest)
        }
    };
    let (channel, rest) = bulk_string(rest)?;
    Some((Delivered { pattern, channel }, rest))
}

/// The pattern whose confirmation `frame` is, and whether it is subscribed now.
fn pattern_change(frame: &[u8]) -> Option<(&[u8], bool)> {
    let change = |begin: &[u8]| Some(bulk_string(frame.strip_prefix(begin)?)?.0);
    let subscribed = change(PATTERN_SUBSCRIBED).map(|pattern| (pattern, true));
    subscribed.or_else(|| change(PATTERN_UNSUBSCRIBED).map(|pattern| (pattern, false)))
}

/// The channel of a frame that says that it is not subscribed to any more.
fn unsubscribed(frame: &[u8]) -> Option<&[u8]> {
    bulk_string(frame.strip_prefix(UNSUBSCRIBED)?).map(|(channel, _)| channel)
}

fn bulk_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"$")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = number(&rest[..digits])?;
    let rest = rest[digits..].strip_prefix(b"\r\n")?;
    let string = rest.get(..length)?;
    Some((string, rest[length..].strip_prefix(b"\r\n")?))
}

/// The length of the frame that `bytes` begin with, with all that is nested in it; `None` until all of it is there.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut values) = (0_usize, 1_usize);
    while values > 0 {
        let line = bytes.get(at..)?;
        let line = &line[..memchr::memchr(b'\n', line)?];
        at += line.len() + 1;
        values -= 1;
        let (&kind, count) = line.split_first()?;
        // "-1" is nothing at all; what is no number is the library's to refuse.
        let Some(count) = number(count.strip_suffix(b"\r").unwrap_or(count)) else { continue };
        match kind {
            b'$' | b'!' | b'=' => at = at.saturating_add(count).saturating_add(2),
            b'*' | b'~' | b'>' => values = values.saturating_add(count),
            b'%' => values = values.saturating_add(count.saturating_mul(2)),
            b'|' => values = values.saturating_add(count.saturating_mul(2)).saturating_add(1),
            _ => {}
        }
    }
    (at <= bytes.len()).then_some(at)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A channel and a payload.
    type Pair = (Vec<u8>, Vec<u8>);

    #[derive(Clone, Default)]
    struct Taken(Arc<Mutex<Vec<Pair>>>);

    /// The channel, after the pattern if there is one.
    fn name_of(delivered: Delivered<'_>) -> Vec<u8> {
        let pattern = delivered.pattern.map(|pattern| [pattern, b" "].concat());
        [&pattern.unwrap_or_default()[..], delivered.channel].concat()
    }

    impl Messages for Taken {
        fn take(&mut self, delivered: Delivered<'_>, payload: &[u8]) {
            self.0.lock().unwrap().push((name_of(delivered), payload.to_vec()));
        }

        fn too_long(&mut self, delivered: Delivered<'_>, bytes: usize) {
            self.0.lock().unwrap().push((name_of(delivered), format!("too long: {bytes}").into_bytes()));
        }

        fn pattern_changed(&mut self, pattern: &[u8], subscribed: bool) {
            self.0.lock().unwrap().push((pattern.to_vec(), format!("subscribed: {subscribed}").into_bytes()));
        }

        fn flush(&mut self) {}
    }

    /// Gives a few bytes a read.
    struct Pieces<'a>(&'a [u8], usize);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let some = self.1.min(self.0.len()).min(out.remaining());
            let (piece, rest) = self.0.split_at(some);
            out.put_slice(piece);
            self.0 = rest;
            Poll::Ready(Ok(()))
        }
    }

    async fn through(bytes: &[u8], a_read: usize) -> (Vec<Pair>, Vec<u8>) {
        through_up_to(usize::MAX, bytes, a_read).await
    }

    async fn through_up_to(longest: usize, bytes: &[u8], a_read: usize) -> (Vec<Pair>, Vec<u8>) {
        let taken = Taken::default();
        let mut rest = Vec::new();
        Tap::new(Pieces(bytes, a_read), taken.clone(), longest).read_to_end(&mut rest).await.unwrap();
        let messages = taken.0.lock().unwrap().clone();
        (messages, rest)
    }

    #[tokio::test]
    async fn messages_are_taken_and_all_else_is_left_however_it_is_cut() {
        let long = vec![b'\n'; 3 * CHUNK];
        let rest: [&[u8]; 7] = [
            b"%2\r\n+server\r\n$5\r\nredis\r\n+modules\r\n*-1\r\n",
            b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
            b"+OK\r\n-ERR no\r\n_\r\n,1.5\r\n#t\r\n",
            b"|1\r\n+key\r\n:1\r\n*2\r\n$-1\r\n$0\r\n\r\n",
            b">3\r\n$12\r\nunsubscribe*\r\n$1\r\na\r\n:0\r\n",
            // A payload that looks like a message is none.
            b"$21\r\n>3\r\n$7\r\nmessage\r\n$1\r\n\r\n",
            b">3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
        ];
        let payloads: [&[u8]; 4] = [b"", b"\r\n>3\r\n$7\r\nmessage\r\n", b"x", &long];
        let mut all = Vec::new();
        for (at, rest) in rest.iter().enumerate() {
            all.extend_from_slice(rest);
            let payload = payloads[at % payloads.len()];
            all.extend(
                [MESSAGE, b"$3\r\na\xff\n\r\n$", payload.len().to_string().as_bytes(), b"\r\n", payload].concat(),
            );
            all.extend_from_slice(b"\r\n");
        }
        for a_read in [1, 2, 3, 7, 64, 1000, usize::MAX] {
            // A byte at a time would take long with the long one.
            let (messages, left) = through(&all, if a_read < 1000 { a_read * 997 } else { a_read }).await;
            let expected: Vec<_> =
                (0..rest.len()).map(|at| (b"a\xff\n".to_vec(), payloads[at % payloads.len()].to_vec())).collect();
            assert!(messages == expected, "{a_read} bytes a read: {} messages", messages.len());
            assert_eq!(left, rest.concat(), "{a_read} bytes a read");
        }
        let short = [rest[0], MESSAGE, b"$1\r\na\r\n$2\r\nxy\r\n", rest[1]].concat();
        for a_read in 1..20 {
            let (messages, left) = through(&short, a_read).await;
            assert_eq!(messages, [(b"a".to_vec(), b"xy".to_vec())]);
            assert_eq!(left, [rest[0], rest[1]].concat());
        }
    }

    /// Ends subscriptions without being asked for `moved`, and as it was asked for all others.
    struct Ending(Taken);

    impl Messages for Ending {
        fn take(&mut self, delivered: Delivered<'_>, payload: &[u8]) {
            self.0.take(delivered, payload);
        }

        fn too_long(&mut self, _: Delivered<'_>, _: usize) {}

        fn ended(&mut self, channel: &[u8]) -> bool {
            channel == b"moved"
        }

        fn flush(&mut self) {}
    }

    #[tokio::test]
    async fn the_library_does_not_see_that_redis_has_ended_a_subscription_of_a_shard() {
        let message: &[u8] = b">3\r\n$8\r\nsmessage\r\n$1\r\na\r\n$2\r\nxy\r\n";
        let ended =
            |name: &str| format!(">3\r\n$12\r\nsunsubscribe\r\n${}\r\n{name}\r\n:0\r\n", name.len()).into_bytes();
        let all = [b"+OK\r\n", message, &ended("moved"), &ended("left"), message].concat();
        for a_read in 1..all.len() {
            let taken = Taken::default();
            let mut rest = Vec::new();
            let mut tap = Tap::new(Pieces(&all, a_read), Ending(taken.clone()), 100);
            tap.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, [&b"+OK\r\n"[..], &ended("left")].concat(), "{a_read} bytes a read");
            assert_eq!(taken.0.lock().unwrap().len(), 2);
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_dropped_without_being_kept() {
        let long = [MESSAGE, b"$1\r\na\r\n$11\r\nhello\r\nbye!\r\n"].concat();
        let short = [MESSAGE, b"$1\r\na\r\n$2\r\nxy\r\n"].concat();
        let all = [&b"+OK\r\n"[..], &short, &long, &short, b":1\r\n", &long].concat();
        for a_read in 1..all.len() {
            let (messages, left) = through_up_to(10, &all, a_read).await;
            let texts: Vec<_> = messages.iter().map(|(_, text)| String::from_utf8_lossy(text)).collect();
            assert_eq!(texts, ["xy", "too long: 11", "xy", "too long: 11"], "{a_read} bytes a read");
            assert_eq!(left, b"+OK\r\n:1\r\n", "{a_read} bytes a read");
        }
    }

    #[tokio::test]
    async fn confirmations_of_patterns_keep_their_place_between_the_messages() {
        let confirmed = b">3\r\n$10\r\npsubscribe\r\n$2\r\na*\r\n:1\r\n";
        let ended = b">3\r\n$12\r\npunsubscribe\r\n$2\r\na*\r\n:0\r\n";
        let of_pattern = [PATTERN_MESSAGE, b"$2\r\na*\r\n$2\r\nab\r\n$2\r\nxy\r\n"].concat();
        let long = [PATTERN_MESSAGE, b"$2\r\na*\r\n$2\r\nab\r\n$11\r\nhello\r\nbye!\r\n"].concat();
        let own = [MESSAGE, b"$2\r\nab\r\n$2\r\nxy\r\n"].concat();
        let all = [&own[..], confirmed, &own, &of_pattern, &long, ended, &own].concat();
        for a_read in 1..all.len() {
            let (messages, left) = through_up_to(10, &all, a_read).await;
            let texts: Vec<_> = messages
                .iter()
                .map(|(name, text)| String::from_utf8([&name[..], b"=", text].concat()).unwrap())
                .collect();
            let expected = [
                "ab=xy",
                "a*=subscribed: true",
                "ab=xy",
                "a* ab=xy",
                "a* ab=too long: 11",
                "a*=subscribed: false",
                "ab=xy",
            ];
            assert_eq!(texts, expected, "{a_read} bytes a read");
            assert_eq!(left, [&confirmed[..], ended].concat(), "{a_read} bytes a read");
        }
    }

    /// A value of RESP3 as bytes.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let text = prop::collection::vec(any::<u8>(), 0..20);
        let leaf = prop_oneof![
            Just(b"+OK\r\n".to_vec()),
            Just(b"-ERR no\r\n".to_vec()),
            Just(b"_\r\n".to_vec()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"#t\r\n".to_vec()),
            any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
            text.prop_map(|text| [format!("${}\r\n", text.len()).as_bytes(), &text, b"\r\n"].concat()),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            let values = prop::collection::vec(inner, 0..4);
            (prop_oneof![Just('*'), Just('~'), Just('%')], values).prop_map(|(kind, values)| {
                // A map has two values for each that it counts.
                let (kind, count) =
                    if kind == '%' && values.len() % 2 == 1 { ('*', values.len()) } else { (kind, values.len()) };
                let count = if kind == '%' { count / 2 } else { count };
                [format!("{kind}{count}\r\n").into_bytes(), values.concat()].concat()
            })
        })
    }

    /// A message, or a value that the library is to read.
    fn frame() -> impl Strategy<Value = (Option<Pair>, Vec<u8>)> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..30);
        let bulk = |text: &[u8]| [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
        prop_oneof![
            (bytes(), bytes()).prop_map(move |(channel, payload)| {
                let frame = [MESSAGE.to_vec(), bulk(&channel), bulk(&payload)].concat();
                (Some((channel, payload)), frame)
            }),
            value().prop_map(|value| (None, value)),
        ]
    }

    proptest! {
        #[test]
        fn the_library_reads_the_frames_that_are_left_as_if_there_had_been_no_messages(
            frames in prop::collection::vec(frame(), 0..12),
            a_read in 1_usize..40,
        ) {
            let all: Vec<u8> = frames.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (messages, left) = runtime.block_on(through(&all, a_read));
            let expected: Vec<Pair> = frames.iter().filter_map(|(message, _)| message.clone()).collect();
            prop_assert_eq!(messages, expected);
            // Each frame that is left begins and ends where the library's own parser says.
            let mut rest = &left[..];
            for (_, frame) in frames.iter().filter(|(message, _)| message.is_none()) {
                prop_assert!(rest.starts_with(frame));
                prop_assert!(redis::parse_redis_value(&rest[..frame.len()]).is_ok());
                prop_assert!(redis::parse_redis_value(&rest[..frame.len() - 1]).is_err());
                rest = &rest[frame.len()..];
            }
            prop_assert!(rest.is_empty());
        }
    }

    /// Counts streams that break off.
    struct Breaks(Arc<Mutex<usize>>);

    impl Messages for Breaks {
        fn take(&mut self, _: Delivered<'_>, _: &[u8]) {}

        fn too_long(&mut self, _: Delivered<'_>, _: usize) {}

        fn broke_off(&mut self) {
            *self.0.lock().unwrap() += 1;
        }

        fn flush(&mut self) {}
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_in_a_message_is_reported() {
        let whole = [b"+OK\r\n", MESSAGE, b"$1\r\na\r\n$5\r\nhello\r\n"].concat();
        for (bytes, longest, breaks) in [
            (&whole[..], 10, 0),
            (&whole[..whole.len() - 1], 10, 1),
            (&whole[..whole.len() - 1], 2, 1),
            (&whole[..5], 10, 0),
        ] {
            let counted = Arc::new(Mutex::new(0));
            let mut tap = Tap::new(Pieces(bytes, 3), Breaks(Arc::clone(&counted)), longest);
            tap.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(*counted.lock().unwrap(), breaks, "{} bytes", bytes.len());
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_ends_with_what_there_was() {
        let cut = [MESSAGE, b"$1\r\na\r\n$5\r\nxy"].concat();
        assert_eq!(through(&cut, 4).await, (vec![], cut.clone()));
    }
}
