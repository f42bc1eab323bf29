//! The integration tests: the real program over real sockets, with real nginx and Redis.
//!
//! Every test has its own folder, sockets, nginx and Redis; it waits for conditions, never for times, and ends by pid what
//! it started. Its first line states which other programs it needs (`needs!`). `tests/run` installs them all and runs the tests;
//! `cargo test` alone skips the tests whose programs are missing, and prints their names.
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping it, and so do its helpers")]

#[macro_use]
mod support;

mod amqp;
mod bench;
mod chaos;
mod cli;
mod clients;
mod coalesce;
mod demo;
mod docs;
mod examples;
mod floors;
mod gaps;
mod gaps_of_two_workers;
mod gzip;
mod hostile_requests;
mod kept;
mod library;
mod lifecycle;
mod load;
mod log;
mod memory;
mod packaging;
mod patterns;
mod polls;
mod proxy;
mod publish;
mod random_losses;
mod redis_at_scale;
mod redis_journal;
mod redis_source;
mod replay;
mod restart;
mod slow;
mod start_as_root;
mod streams;
mod upgrade;
