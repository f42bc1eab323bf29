//! HTTP as both sockets use it: connections that hyper serves, and replies in JSON. It knows no route and no client.

mod connection;
pub mod reply;

pub use self::connection::{Answer, Ended, serve};
