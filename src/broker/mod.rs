//! Between sources and shards: positions, subscriptions, cut-over at an upgrade, publish routes. It knows no shard and no
//! source, only the [`Outlet`] of the one and the [`Interest`] of the other.

mod receipt;
mod outlet;
mod dispatcher;
mod subscriptions;
mod cutover;
mod publish;

pub use self::{
    dispatcher::{Dispatcher, Generation, Interest},
    outlet::{Delivery, Outlet, ShardQuery},
    publish::{Embedded, PublishError, Published, Publisher, Publishing},
    receipt::Receipt,
};
