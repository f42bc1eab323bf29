//! HTTP for both sockets: connections that hyper serves, and JSON replies. It knows no route and no client.

mod connection;
pub mod reply;

pub use self::connection::{Answer, Ended, serve};
