//! What the sources that read from Redis share: the table `[redis]`, the URL, TLS, Sentinel, and how a connection is opened and
//! logged in. It subscribes to nothing, reads no events and never reconnects.

mod url;
mod error;
mod version;
mod slots;
mod config;
mod server;
mod shared;

pub use self::config::RedisConfig;
pub(super) use self::{
    error::{broken, explain, has_moved, is_forbidden, login_refused},
    server::{Connection, Server, Stream},
    shared::{SharedConnection, owner},
    slots::{Slots, slot},
    url::{Address, Topology},
    version::Product,
};
