//! ssecast turns publishes into Server-Sent Events: nginx faces the browsers and proxies to ssecast's Unix socket,
//! applications publish with `redis-cli publish` or to an admin socket.
//!
//! This library is the content of the program `ssecast`, and the way to extend it. A program of your own is an [`App`]: ssecast with
//! its command line, its sockets and its upgrades, and beside that
//!
//! - a [`Source`]: where events come from, such as a table of a database;
//! - an [`Authorizer`]: which client may read which channels.
//!
//! `docs/extend.md` tells how, on one page; `examples/authorize.rs` is a whole program. Programs that only
//! publish or read need no library: they talk to ssecast over its sockets.
//!
//! # A source
//!
//! This one publishes the time on the channel `clock`, each second.
//!
//! ```no_run
//! use std::{process::ExitCode, time::{Duration, SystemTime, UNIX_EPOCH}};
//!
//! use ssecast::{App, Batch, ChannelName, Checkpoint, Interests, Message, Running, Sink, Source, Spec};
//!
//! struct Clock(ChannelName);
//!
//! impl Source for Clock {
//!     fn spec(&self) -> Spec {
//!         // Each process has a clock of its own, which shows all the time there is.
//!         Spec::fanout("clock").all_channels()
//!     }
//!
//!     fn origin(&self) -> String {
//!         "clock".to_owned()
//!     }
//!
//!     fn run(self: Box<Self>, sink: Sink, _interests: Interests, _resume: Option<Checkpoint>) -> Running {
//!         Box::pin(async move {
//!             sink.reconnected(sink.now(), []);
//!             loop {
//!                 let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
//!                 let message = Message::new(self.0.clone(), None, seconds.to_string().into());
//!                 sink.publish(Batch::of([message]));
//!                 tokio::time::sleep(Duration::from_secs(1)).await;
//!             }
//!         })
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     App::new().source(|_config| Ok(Some(Box::new(Clock(ChannelName::new("clock")?))))).run()
//! }
//! ```
//!
//! # What is stable
//!
//! What this page lists follows semantic versioning. The types of other crates in it are `bytes::Bytes` and `http::HeaderMap`; a check
//! keeps it so. The modules are private, and change without notice.
//!
//! # Layout
//!
//! Modules stand in reading order, lowest floor first. A module imports from lower floors only; `tests/it/floors.rs` checks that.

#![deny(missing_docs)]

mod client_limit;
mod clock;
mod lock;
mod index;
mod name;
mod cursor;
mod gzip;
mod metrics;

mod sse;
mod stream;
mod log_rate;
mod pattern;

mod event;
mod config;

mod snapshot;
mod hub;
mod http;

mod broker;
mod access;

mod shard;

mod source;
mod public;
mod admin;

mod process;

mod app;

mod cli;

mod program;

pub use access::{Authorizer, Authorizing, Denied, Grant, Identity, Subscriber};
pub use app::BoxError;
pub use broker::{
    Accepted, Checkpoint, Delivers, Generation, Interest, Interested, PublishError, Published, Publisher, Publishing,
    Spec,
};
pub use cli::exit;
pub use config::{Config, Definition as Table, Key, SettingError, Settings};
pub use cursor::{Cursor, CursorError};
pub use event::Message;
pub use name::{ChannelError, ChannelName, EventType, EventTypeError, MAX_CHANNEL_BYTES, MAX_EVENT_TYPE_BYTES};
pub use program::App;
pub use source::{Batch, Interests, Node, Running, Sink, Source};
