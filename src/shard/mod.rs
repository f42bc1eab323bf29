//! A shard: one thread with its own hub, which serves its own clients. Shards share no client and no history.
//!
//! A file imports only from files above it in this list.

mod wheel;
mod socket;
mod frames;
mod poll;
mod state;
mod client;
mod clients;
mod counts;
mod queue;
mod parts;
mod ahead;
mod core;
mod serve_ahead;
mod writer;
mod flush;
mod timers;
mod drain;
mod connect;
mod snapshot_journals;
mod snapshot;
mod turn;
mod connections;
mod handle;
mod window;
mod runner;

pub use self::{
    client::Joining,
    handle::{Hold, ShardHandle},
    parts::Parts,
    poll::PollReply,
    queue::{Op, Queue},
    runner::{ServeConnection, run},
};

#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod tests;
