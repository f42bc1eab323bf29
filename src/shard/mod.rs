//! A shard: one thread with its own hub, which serves its own clients. Shards share no client and no history.
//!
//! A file imports only from files above it in this list.

mod wheel;
mod socket;
mod frames;
mod poll;
mod client;
mod core;
mod writer;
mod timers;
mod drain;
mod connect;
mod snapshot;
mod queue;
mod turn;
mod handle;
mod runner;

pub use self::{
    client::Joining,
    handle::{Hold, ShardHandle},
    poll::PollReply,
    queue::{Op, Queue},
    runner::{Parts, ServeConnection, run},
};

#[cfg(test)]
mod tests;
