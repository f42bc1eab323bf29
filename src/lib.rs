//! ssecast turns publishes into Server-Sent Events: nginx faces the browsers and proxies to ssecast's Unix socket,
//! applications publish with `redis-cli publish` or to an admin socket.
//!
//! This is a program; the library is its content. All that it offers is [`run`], the whole command line, and its exit codes: the
//! modules are private, and change without notice. Programs talk to ssecast over its sockets.
//!
//! # Layout
//!
//! Modules stand in reading order, lowest floor first; a module imports from lower floors only (`tests/it/floors.rs`
//! keeps it so).

mod client_limit;
mod clock;
mod log_rate;
mod config;
mod name;
mod cursor;
mod gzip;
mod metrics;

mod sse;
mod stream;

mod event;

mod snapshot;
mod hub;
mod http;

#[allow(dead_code, reason = "what other kinds of sources need is there before they are")]
mod broker;
#[allow(dead_code, reason = "what other authorizers need is there before they are")]
mod access;

mod shard;

mod source;
mod public;
mod admin;

mod process;

mod app;

mod cli;

pub use cli::{exit, run};
