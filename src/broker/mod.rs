//! Between sources and shards: positions, subscriptions, cut-over at an upgrade, publish routes. It knows no shard and no
//! source, only the [`Outlet`] of the one and the [`Spec`] of the other.

mod receipt;
mod journal;
mod outlet;
mod spec;
mod stamp;
mod subscriptions;
mod cutover;
mod dispatcher;
mod inputs;
mod query;
mod upgrade;
mod publish;

pub use self::{
    dispatcher::{Accepted, Dispatcher},
    journal::JournalReport,
    outlet::{Delivery, Outlet, ShardQuery},
    publish::{ByDurability, Embedded, PublishError, Published, Publisher, Publishing},
    receipt::Receipt,
    spec::{Checkpoint, Delivers, Interested, Spec},
    subscriptions::{Generation, Interest, SourceId},
};

#[cfg(test)]
mod tests;
