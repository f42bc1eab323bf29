//! The control channel between a process and its successor: messages, each with descriptors if need be, over a pair of sockets.
//! It knows the messages, not what leads to them: their order and time limits are `app::upgrade::phase`.
//!
//! `>` from the predecessor to the successor:
//!
//! | message | with | means |
//! |---|---|---|
//! | `< Hello` | | the successor runs and its configuration is good |
//! | `> Subscribe` | listening sockets (once), a memfd of channel names | connect the sources; subscribe to these channels and the marker |
//! | `< Ready` | | done; the predecessor may stop |
//! | `> State` | a memfd with the snapshot | |
//! | `> Descriptors` | some clients' sockets, until all are sent | |
//! | `< Holding` | | the successor has everything, has made everything it needs, and touches nothing |
//! | `> Go` | | from now on everything is the successor's |
//! | `< Serving` | | the receipt; with it, and only with it, the predecessor ends |
//!
//! `< Failed` may come instead of any answer, with the reason. Each side states its version in its first message.

mod async_channel;
mod channel;
mod memfd;
mod spawn;

pub use self::{
    async_channel::AsyncControlChannel,
    channel::{ControlChannel, ControlError},
    memfd::{memfd, read_memfd},
    spawn::{ENVIRONMENT, Parentage, Successor, program},
};

use serde::{Deserialize, Serialize};

/// The version of the messages that this program sends and understands.
///
/// Version 1 had a snapshot of one piece and a predecessor that did not state its version; this program still takes over from it.
pub const VERSION: u32 = 2;
/// The oldest version of a predecessor that this program takes over from.
pub const OLDEST_VERSION: u32 = 1;
/// Most descriptors that go with one message; the kernel allows 253.
pub const FDS_PER_MESSAGE: usize = 250;

/// A message on the control channel. See the module for the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The successor runs, and its configuration is good.
    Hello {
        /// The [`VERSION`] of the successor.
        version: u32,
    },
    /// The channels that the successor subscribes to. The first one carries everything else as well.
    Subscribe {
        /// The [`VERSION`] of the predecessor; version 1 did not state it.
        #[serde(default = "unstated_version")]
        version: u32,
        /// The kinds of the descriptors that come with this message, in their order, before the memfd of names.
        sockets: Vec<InheritedFd>,
        /// The marker channel, where there are sources.
        marker: Option<String>,
        /// Whether the predecessor's sources are connected; then the successor's must be.
        sources: bool,
        /// Whether the predecessor stays as the supervising process, and the channel with it.
        #[serde(default)]
        supervised: bool,
    },
    /// The sources have confirmed all channels.
    Ready,
    /// The snapshot.
    State {
        /// Number of descriptors that follow.
        descriptors: usize,
    },
    /// Descriptors, in the snapshot's order.
    Descriptors,
    /// Everything has arrived, and nothing that can fail is left to do.
    Holding,
    /// Everything is the successor's.
    Go,
    /// The successor serves.
    Serving,
    /// To the supervising process: this process is the daemon from now on.
    MainProcess {
        /// Its process id.
        pid: u32,
    },
    /// The sender can't go on.
    Failed {
        /// Why, for the log.
        reason: String,
    },
}

const fn unstated_version() -> u32 {
    1
}

/// The kind of an inherited descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InheritedFd {
    /// The public listening socket.
    Public {
        /// Its address, as in the configuration.
        address: String,
        /// Whether its file was made by ssecast, which then removes it.
        made: bool,
        /// Whether the service manager has bound it. Version 1 did not state it; there, a Unix socket that ssecast has not made is
        /// the service manager's.
        #[serde(default)]
        by_manager: Option<bool>,
    },
    /// A listening socket of the admin side; there may be several.
    Admin {
        /// Its address, as in the configuration.
        address: String,
        /// Whether its file was made by ssecast, which then removes it.
        made: bool,
        /// Whether the service manager has bound it. Version 1 did not state it; there, a Unix socket that ssecast has not made is
        /// the service manager's.
        #[serde(default)]
        by_manager: Option<bool>,
    },
    /// The locked pidfile, by its path.
    Pidfile(String),
    /// The control channel to the supervising process: see `process::supervisor`.
    Supervisor,
}
