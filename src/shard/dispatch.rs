//! The one way into the shards: gives events their positions and keeps what the shards have asked of the sources.
//!
//! Invariant: everything whose order matters is pushed to the shards' queues while [`Dispatcher::state`] is locked, so every
//! shard sees the same events, openings and gaps in the same order, and a join can't race with a publish.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::queue::{Op, Queue, Receipt};
use crate::{
    cursor::Cursor,
    event::{ChannelName, Event, Message, Position},
    hub::Sequencer,
    metrics::Metrics,
};

/// What a source is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// Deliver the channel's messages from now on, and say with the ticket when that is certain.
    Subscribe(ChannelName, Ticket),
    /// Stop delivering them.
    Unsubscribe(ChannelName),
}

/// Tells one demand for a channel from the next: a channel may be let go and wanted again before a source has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// Sources and shards are few: a bit for each.
type Bits = u64;

struct Wanted {
    /// Shards that want the channel.
    shards: Bits,
    /// Sources that have not confirmed it.
    awaiting: Bits,
    /// Whether the shards were told that it is open.
    open: bool,
    ticket: Ticket,
}

struct State {
    sequencer: Sequencer,
    wanted: HashMap<ChannelName, Wanted>,
    /// Sources that are away.
    away: Bits,
    /// Sources that have said once whether they are there.
    heard: Bits,
    tickets: u64,
}

/// See the module.
pub struct Dispatcher {
    /// A lock, and not a task, since it is held for less than a microsecond an event, and publishers need no answer from it.
    state: Mutex<State>,
    queues: Vec<Arc<Queue>>,
    sources: Vec<UnboundedSender<Demand>>,
    metrics: Arc<Metrics>,
}

impl Dispatcher {
    /// A dispatcher to the shards behind `queues`; `sources` are those that must be asked for each channel (at most 64).
    #[must_use]
    pub fn new(
        sequencer: Sequencer,
        queues: Vec<Arc<Queue>>,
        sources: Vec<UnboundedSender<Demand>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = Mutex::new(State { sequencer, wanted: HashMap::new(), away: 0, heard: 0, tickets: 0 });
        Self { state, queues, sources, metrics }
    }

    /// Passes messages on as events, in order. Gives back the cursor of each.
    pub fn publish(&self, messages: &[Message], receipt: Option<&Arc<Receipt>>) -> Vec<Cursor> {
        let mut state = self.lock();
        let node = *state.sequencer.node();
        let now = now_micros();
        let mut cursors = Vec::with_capacity(messages.len());
        let mut events = Vec::with_capacity(messages.len());
        for message in messages {
            let position = state.sequencer.next(now);
            cursors.push(Cursor { node, position });
            events.push(Arc::new(Event::new(&node, position, message)));
        }
        self.metrics.events.add(messages.len() as u64);
        for queue in &self.queues {
            queue.push(events.iter().zip(0..).map(|(event, index)| {
                Op::Publish(Arc::clone(event), receipt.map(|receipt| (Arc::clone(receipt), index)))
            }));
        }
        cursors
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.queues.len()
    }

    /// The shards' queues.
    #[must_use]
    pub fn queues(&self) -> &[Arc<Queue>] {
        &self.queues
    }

    /// Shard `shard` wants the channel. True if its events arrive already; else [`Op::Open`] follows.
    pub fn want(&self, shard: usize, name: &ChannelName) -> bool {
        let mut state = self.lock();
        if let Some(wanted) = state.wanted.get_mut(name) {
            wanted.shards |= 1 << shard;
            return wanted.open;
        }
        let awaiting = self.all_sources();
        let open = awaiting & !state.away == 0;
        state.tickets += 1;
        let ticket = Ticket(state.tickets);
        state.wanted.insert(name.clone(), Wanted { shards: 1 << shard, awaiting, open, ticket });
        for source in &self.sources {
            // A source that has ended has told why; its channels stay unconfirmed.
            let _ = source.send(Demand::Subscribe(name.clone(), ticket));
        }
        if open {
            self.to_all(|| Op::Open(name.clone(), None));
        }
        false
    }

    /// Shard `shard` no longer wants the channel.
    pub fn unwant(&self, shard: usize, name: &ChannelName) {
        let mut state = self.lock();
        let Some(wanted) = state.wanted.get_mut(name) else { return };
        wanted.shards &= !(1 << shard);
        if wanted.shards == 0 {
            state.wanted.remove(name);
            self.to_all(|| Op::Unasked(name.clone()));
            for source in &self.sources {
                let _ = source.send(Demand::Unsubscribe(name.clone()));
            }
        }
    }

    /// Source `source` delivers the channel from now on, as the demand with `ticket` has asked.
    pub fn confirm(&self, source: usize, name: &ChannelName, ticket: Ticket) {
        let mut state = self.lock();
        let State { sequencer, wanted, .. } = &mut *state;
        let Some(wanted) = wanted.get_mut(name).filter(|wanted| wanted.ticket == ticket) else { return };
        let was_awaited = wanted.awaiting & (1 << source) != 0;
        wanted.awaiting &= !(1 << source);
        if !was_awaited || wanted.awaiting != 0 {
            return;
        }
        let since = sequencer.next(now_micros());
        if wanted.open {
            // It was opened while the source was away: its clients have to be told.
            let names: Arc<[ChannelName]> = [name.clone()].into();
            self.to_all(|| Op::Restored(Arc::clone(&names), since));
        } else {
            wanted.open = true;
            self.to_all(|| Op::Open(name.clone(), Some(since)));
        }
    }

    /// Source `source` is away: joins don't wait for it.
    pub fn lost(&self, source: usize) {
        let mut state = self.lock();
        state.away |= 1 << source;
        state.heard |= 1 << source;
        let State { wanted, away, .. } = &mut *state;
        for (name, wanted) in wanted {
            wanted.awaiting |= 1 << source;
            if !wanted.open && wanted.awaiting & !*away == 0 {
                wanted.open = true;
                self.to_all(|| Op::Open(name.clone(), None));
            }
        }
    }

    /// Source `source` is back, and delivers the channels of these demands from now on.
    pub fn restored<'a>(&self, source: usize, demands: impl Iterator<Item = (&'a ChannelName, Ticket)>) {
        let mut state = self.lock();
        state.away &= !(1 << source);
        state.heard |= 1 << source;
        let since = state.sequencer.next(now_micros());
        let mut complete = Vec::new();
        for (name, ticket) in demands {
            let Some(wanted) = state.wanted.get_mut(name).filter(|wanted| wanted.ticket == ticket) else { continue };
            wanted.awaiting &= !(1 << source);
            if wanted.awaiting != 0 {
                continue;
            }
            if wanted.open {
                complete.push(name.clone());
            } else {
                wanted.open = true;
                self.to_all(|| Op::Open(name.clone(), Some(since)));
            }
        }
        if !complete.is_empty() {
            let complete: Arc<[ChannelName]> = complete.into();
            self.to_all(|| Op::Restored(Arc::clone(&complete), since));
        }
    }

    /// How many clients each of `names` has, over all shards.
    pub async fn subscribers(&self, names: Vec<ChannelName>) -> Vec<u32> {
        let (receipt, counted) = Receipt::new(names.len(), self.queues.len());
        let names: Arc<[ChannelName]> = names.into();
        for queue in &self.queues {
            let (names, receipt) = (Arc::clone(&names), Arc::clone(&receipt));
            queue.push([Op::Ask(Box::new(move |shard| {
                for (name, index) in names.iter().zip(0..) {
                    receipt.count(index, shard.hub().subscribers_of(name));
                }
            }))]);
        }
        // Shards that end while they are asked count as none.
        let _ = counted.await;
        (0..names.len()).map(|index| receipt.clients(index)).collect()
    }

    /// How many clients each channel has that has any, over all shards; by name.
    pub async fn all_subscribers(&self) -> BTreeMap<ChannelName, u32> {
        let mut all = BTreeMap::new();
        for queue in &self.queues {
            let (answer, answered) = oneshot::channel();
            queue.push([Op::Ask(Box::new(move |shard| {
                let counts: Vec<_> = shard.hub().subscribers().map(|(name, count)| (name.clone(), count)).collect();
                let _ = answer.send(counts); // Whoever asked may have gone.
            }))]);
            for (name, count) in answered.await.unwrap_or_default() {
                *all.entry(name).or_default() += count;
            }
        }
        all
    }

    /// Sources that are away, by their number.
    #[must_use]
    pub fn away(&self) -> Vec<usize> {
        let away = self.lock().away;
        (0..self.sources.len()).filter(|source| away & (1 << source) != 0).collect()
    }

    /// Whether every source has said that it is there, or away.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.lock().heard == self.all_sources()
    }

    /// The cursor of the last event that got a position.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.lock().sequencer.cursor()
    }

    /// The last position given.
    #[must_use]
    pub fn last(&self) -> Position {
        self.lock().sequencer.last()
    }

    fn all_sources(&self) -> Bits {
        (0..self.sources.len()).fold(0, |bits, source| bits | (1 << source))
    }

    fn to_all(&self, op: impl Fn() -> Op) {
        for queue in &self.queues {
            queue.push([op()]);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, positions are still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time, in microseconds since 1970.
#[must_use]
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
