//! ssecast turns publishes into Server-Sent Events: nginx faces the browsers and proxies to ssecast's Unix socket,
//! applications publish with `redis-cli publish` or to an admin socket.
//!
//! # Layout
//!
//! Modules stand in reading order, lowest floor first; a module imports from lower floors only (`tests/it/floors.rs`
//! keeps it so).

pub mod client_limit;
pub mod clock;
pub mod log_rate;
pub mod config;
pub mod name;
pub mod cursor;
pub mod gzip;
pub mod metrics;

pub mod sse;
pub mod stream;

pub mod event;

pub mod snapshot;
pub mod hub;
pub mod http;

pub mod broker;
pub mod access;

pub mod shard;

pub mod source;
pub mod public;
pub mod admin;

pub mod process;

pub mod app;

pub mod cli;
