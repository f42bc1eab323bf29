//! How a source describes itself before it runs, and how far it has read. Plain data.

use bytes::Bytes;

/// The properties of a source that the broker has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Its name in logs and in `/readyz`.
    pub id: &'static str,
    /// How it delivers while two processes are connected.
    pub delivers: Delivers,
    /// Which channels it delivers.
    pub interest: Interested,
}

/// How a source delivers while two processes are connected to it, as during an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivers {
    /// Each process gets every message (publish/subscribe): a marker divides them.
    Fanout,
    /// Each message is kept until one process has taken it (a stream, a queue): the successor goes on at the predecessor's
    /// checkpoint, and nothing is discarded.
    Durable,
}

/// Which channels a source delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interested {
    /// The channels that it is asked for.
    OnDemand,
    /// All channels.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "no source delivers all channels yet; the broker's tests have one")
    )]
    All,
}

/// How far a durable source has read, in a format of its own. It is given at the source's next start, which continues there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint(pub Bytes);
