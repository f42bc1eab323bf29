//! The deliveries of the dispatcher to a shard, and the trait by which it reaches one: shards in the daemon, recorders in tests.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{JournalReport, Receipt};
use crate::{
    cursor::Position,
    event::Event,
    hub::{Hole, LagSpan},
    name::ChannelName,
};

/// One thing that a shard is to do, in order.
#[derive(Debug)]
pub enum Delivery {
    /// Deliver an event; the receipt, if there is one, counts its clients (at the index).
    Publish(Arc<Event>, Option<(Arc<Receipt>, u32)>),
    /// The channel's events arrive: complete from the position, or (`None`) a source is disconnected.
    Confirmed(ChannelName, Option<Position>),
    /// A source was disconnected and is reconnected: events of the channels may be missing within the hole.
    Reconnected(Arc<[ChannelName]>, Hole),
    /// A source has reported this about one of its journals. Events are missing within the hole if some were lost.
    Journal(u8, JournalReport, Hole),
    /// No source delivers the channel, for this reason.
    Refused(ChannelName, Arc<str>),
    /// No event follows with a position up to this one.
    Advance(Position),
    /// Positions that follow may be older than the time at which they were given.
    Lag(LagSpan),
    /// From now on positions are times, or (`false`) ahead of the clock: ids say so.
    Timed(bool),
    /// No shard is subscribed to the channel any more; from now on its events are incomplete.
    Unsubscribed(ChannelName),
    /// Answer a question.
    Query(ShardQuery),
}

/// A question to a shard. Each answer is sent even where it is empty.
#[derive(Debug)]
pub enum ShardQuery {
    /// How many clients each of `names` has; counted in the receipt at the name's index.
    Subscribers {
        /// The channels.
        names: Arc<[ChannelName]>,
        /// Where they are counted.
        receipt: Arc<Receipt>,
    },
    /// Whether all that was pushed before has been taken: it has, once this is answered.
    Passed(oneshot::Sender<()>),
    /// Every channel that has clients, with their number.
    Channels(oneshot::Sender<Vec<(ChannelName, u32)>>),
    /// A number for each channel that has clients, the same on every shard: to count them without a copy of their names.
    ChannelHashes(oneshot::Sender<Vec<u64>>),
}

/// The way to one shard. What is pushed is done in this order.
pub trait Outlet: Send + Sync {
    /// Appends `deliveries`. Called with the dispatcher's lock held: it must not block.
    fn push(&self, deliveries: &mut dyn Iterator<Item = Delivery>);

    /// Blocks the thread of a source while the shard's queue is over its bound, for `longest` at most.
    fn wait_for_space(&self, longest: Duration);
}
