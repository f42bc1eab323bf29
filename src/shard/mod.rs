//! Shards: each is one thread with a hub of its own and the clients that it serves.
//!
//! A file imports from those that stand before it in this list.

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
