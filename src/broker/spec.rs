//! What a source says of itself before it runs, and how far it has read. Plain data.

use bytes::Bytes;

/// What the broker has to know of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Its name in logs and in `/readyz`.
    pub id: &'static str,
    /// How it delivers to two processes at once.
    pub delivers: Delivers,
    /// Which channels it delivers.
    pub interest: Interested,
}

/// What a source does where two processes listen to it, as they do during an upgrade.
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
    /// Those that it is asked for.
    OnDemand,
    /// All.
    All,
}

/// How far a durable source has read, in its own words: what it is given at its start to continue there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint(pub Bytes);
