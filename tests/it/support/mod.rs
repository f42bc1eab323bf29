//! Helpers of the tests: the daemon, nginx and Redis as child processes, and HTTP and event-stream clients.
//!
//! The clients share no code with the daemon. Otherwise a bug in shared code would go unnoticed.

pub(crate) mod certificates;
mod child;
pub(crate) mod cluster;
pub(crate) mod daemon;
mod event_stream;
mod folder;
mod http;
#[macro_use]
mod needs;
pub(crate) mod nginx;
pub(crate) mod publisher;
pub(crate) mod rabbit;
pub(crate) mod redis;
pub(crate) mod relay;
mod response;
pub(crate) mod sentinel;
mod socket;
mod stream;
mod times;
mod wait;

pub(crate) use child::{Child, processes_of};
pub(crate) use daemon::Daemon;
pub(crate) use event_stream::{Event, Parser};
pub(crate) use folder::{Folder, free_port, program_in_path};
pub(crate) use http::{Decoder, Request};
pub(crate) use needs::{has_programs, python_packages};
pub(crate) use nginx::Nginx;
pub(crate) use publisher::Published;
pub(crate) use rabbit::RabbitServer;
pub(crate) use redis::RedisServer;
pub(crate) use response::Response;
pub(crate) use socket::{Endpoint, Socket};
pub(crate) use stream::{Gap, Stream, Subscription};
pub(crate) use wait::{PATIENCE, eventually, holds_for_a_while};
