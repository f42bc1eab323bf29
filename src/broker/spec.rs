//! How a source describes itself before it runs, and how far it has read. Plain data.

use bytes::Bytes;

/// What a source says of itself before it runs: its name, and how it delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spec {
    /// Its name in logs and in `/readyz`.
    pub id: &'static str,
    /// How it delivers while two processes are connected.
    pub delivers: Delivers,
    /// Which channels it delivers.
    pub interest: Interested,
    /// Number of its journals, at most `MOST_JOURNALS`; 0 for a source without journals. Only one source may have journals, it is
    /// durable, and delivers all channels: each belongs to one of the journals (`journal_of`), and every message is an entry of it.
    pub(crate) journals: usize,
}

impl Spec {
    /// A source with publish/subscribe: each process that is connected gets every message, and what is published while none is
    /// connected is lost. It is asked for channels ([`Interested::OnDemand`]). `id` is its name in logs and in `/readyz`.
    #[must_use]
    pub const fn fanout(id: &'static str) -> Self {
        Self { id, delivers: Delivers::Fanout, interest: Interested::OnDemand, journals: 0 }
    }

    /// A source whose messages are kept until they are taken (a table, a stream, a queue): it continues at a [`Checkpoint`]. It is
    /// asked for channels ([`Interested::OnDemand`]). `id` is its name in logs and in `/readyz`.
    #[must_use]
    pub const fn durable(id: &'static str) -> Self {
        Self { id, delivers: Delivers::Durable, interest: Interested::OnDemand, journals: 0 }
    }

    /// The same source, but it delivers all channels without being asked.
    #[must_use]
    pub const fn all_channels(self) -> Self {
        Self { interest: Interested::All, ..self }
    }
}

/// How a source delivers while two processes are connected to it, as during an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivers {
    /// Each process gets every message (publish/subscribe): a marker divides them.
    Fanout,
    /// Each message is kept until one process has taken it (a stream, a queue): the successor goes on at the predecessor's
    /// checkpoint, and nothing is discarded.
    Durable,
}

/// Which channels a source delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interested {
    /// The channels that it is asked for.
    OnDemand,
    /// All channels.
    All,
}

/// How far a durable source has read, in a format of its own. It is given at the source's next start, which continues there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint(pub Bytes);
