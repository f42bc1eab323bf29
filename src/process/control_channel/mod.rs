//! The link between a process and its successor: messages, each with descriptors if need be, over a pair of sockets.
//!
//! The order of the messages, `>` from the old process to the new one:
//!
//! | message | with | means |
//! |---|---|---|
//! | `< Hello` | | the successor runs and its configuration is good |
//! | `> Subscribe` | listening sockets (once), a memfd of names | connect the sources; subscribe to these channels and the marker |
//! | `< Ready` | | done; the old one may stop |
//! | `> State` | a memfd of everything held | |
//! | `> Descriptors` | some clients' sockets, until all are given | |
//! | `< Holding` | | the successor has everything and touches nothing |
//! | `> Go` | | from now on it is the successor's |
//! | `< Serving` | | the receipt; with it, and only with it, the old process ends |
//!
//! `< Failed` may come instead of any answer, with the reason.

mod channel;
mod spawn;

pub use self::{
    channel::{ControlChannel, ControlError, memfd, read_memfd},
    spawn::{ENVIRONMENT, Successor, program},
};

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The version of the messages and of what is handed over. A successor that does not know it says so, and nothing happens.
pub const VERSION: u32 = 1;
/// Most descriptors that go with one message; the kernel allows 253.
pub const FDS_PER_MESSAGE: usize = 250;

/// How long a process that has closed its end may take to be gone.
pub const PROGRAM_TIME: Duration = Duration::from_millis(500);

/// What is said over the link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// See the module.
    Hello {
        /// The highest [`VERSION`] that the successor knows.
        version: u32,
    },
    /// See the module.
    Subscribe {
        /// What the listening sockets are for, in the order of their descriptors.
        sockets: Vec<InheritedFd>,
        /// The marker channel, where there are sources.
        marker: Option<String>,
        /// Whether the old process's sources are there; then the new one's must be.
        sources: bool,
    },
    /// See the module.
    Ready,
    /// See the module.
    State {
        /// Descriptors that follow.
        descriptors: usize,
    },
    /// See the module.
    Descriptors,
    /// See the module.
    Holding,
    /// See the module.
    Go,
    /// See the module.
    Serving,
    /// See the module.
    Failed {
        /// Why, for the log.
        reason: String,
    },
}

/// What an inherited descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InheritedFd {
    /// The public listening socket.
    Public {
        /// Its address, as in the configuration.
        address: String,
        /// Whether its file was made by ssecast, which then removes it.
        made: bool,
    },
    /// The admin listening socket.
    Admin {
        /// Its address, as in the configuration.
        address: String,
        /// Whether its file was made by ssecast, which then removes it.
        made: bool,
    },
    /// The locked pidfile, by its path.
    Pidfile(String),
}
