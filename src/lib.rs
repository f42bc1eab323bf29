//! ssecast turns publishes into Server-Sent Events: nginx faces the browsers and proxies to ssecast's Unix socket,
//! applications publish with `redis-cli publish` or to an admin socket.
//!
//! This library is the content of the program `ssecast`. It offers [`run`], which is the whole command line, and the exit codes.
//! The modules are private, and change without notice. Other programs talk to ssecast over its sockets.
//!
//! # Layout
//!
//! Modules stand in reading order, lowest floor first. A module imports from lower floors only; `tests/it/floors.rs` checks that.

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

pub use cli::{exit, run};
