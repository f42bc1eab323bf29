//! Which shards are subscribed to which channels, and which sources deliver them: a pure state machine, from inputs to lists
//! of [`Action`]s. It knows no lock, no clock and no queue.
//!
//! Invariants:
//! - A channel is *open* (its clients may join) once each source that must be asked for it has confirmed it, has refused it or
//!   is disconnected.
//! - A source that confirms an open channel gives a gap on it, and only then the messages that it sent before it confirmed.
//! - What one source reports about a channel changes nothing that other sources have reported about it.

use std::{collections::HashMap, sync::Arc};

use crate::{event::Message, name::ChannelName};

/// The number of a source: its place in the list that the dispatcher was made with.
pub type SourceId = usize;

/// Shards and sources are few: a bit for each.
type Bits = u64;

/// Most bytes of one source's messages that are kept while it has not confirmed their channels. What exceeds this is dropped.
/// It precedes the position from which the channel is complete, so clients that need it get a gap event.
const EARLY_BYTES: usize = 16 << 20;
/// Bytes that a message takes beside its data.
pub(super) const MESSAGE_OVERHEAD: usize = 128;

/// Distinguishes one subscription to a channel from the next: a channel may be released and subscribed to again before a
/// source has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(u64);

/// A request to a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// Deliver the channel's messages from now on, and confirm it with the generation when that is certain.
    Subscribe(ChannelName, Generation),
    /// Stop delivering them.
    Unsubscribe(ChannelName),
}

/// A step that the dispatcher takes after an input. Steps are taken in the order in which they are returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask a source.
    Ask(SourceId, Interest),
    /// Clients may join the channel. `complete`: from now on all its events arrive; if not, every source is disconnected.
    Open { name: ChannelName, complete: bool },
    /// The source may have lost messages of the channels, which are open; from now on it delivers them.
    Gap(SourceId, Vec<ChannelName>),
    /// No source delivers the channel.
    Refuse(ChannelName, Arc<str>),
    /// No shard is subscribed to the channel any more.
    Unsubscribed(ChannelName),
    /// A message of the source that had come before the source confirmed its channel.
    Release(SourceId, Message),
}

/// How a message of a source is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Forward it.
    Ready,
    /// The source has not confirmed its channel: [`Subscriptions::keep_early`].
    Early,
    /// No shard is subscribed to its channel.
    Unsubscribed,
}

/// The answer of one source about one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was asked, or is disconnected.
    Pending,
    /// It delivers the channel.
    Confirmed,
    /// It may not deliver the channel.
    Refused,
}

struct Early {
    source: SourceId,
    /// Keeps the order of messages on different channels.
    number: u64,
    message: Message,
}

/// One channel that a shard is subscribed to.
struct Channel {
    /// Shards that are subscribed.
    shards: Bits,
    /// Sources that have neither confirmed nor refused it.
    pending: Bits,
    /// Sources that have refused it. Never one of `pending`.
    refused: Bits,
    /// Whether clients may join it.
    open: bool,
    generation: Generation,
    /// Messages of sources that are pending.
    early: Vec<Early>,
}

impl Channel {
    fn answer(&self, source: SourceId) -> Answer {
        match (self.pending & (1 << source), self.refused & (1 << source)) {
            (0, 0) => Answer::Confirmed,
            (0, _) => Answer::Refused,
            _ => Answer::Pending,
        }
    }
}

/// Whether a source is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// It has reported nothing yet.
    Unknown,
    Connected,
    Disconnected,
}

struct SourceState {
    /// Whether it must be asked for each channel.
    on_demand: bool,
    connection: Connection,
    /// Bytes of its early messages.
    early_bytes: usize,
}

/// See the module.
pub(super) struct Subscriptions {
    channels: HashMap<ChannelName, Channel>,
    sources: Vec<SourceState>,
    generations: u64,
    early: u64,
}

impl Subscriptions {
    /// No subscriptions yet. `on_demand`: for each source (at most 64), whether it must be asked for each channel.
    pub(super) fn new(on_demand: impl IntoIterator<Item = bool>) -> Self {
        let source = |on_demand| SourceState { on_demand, connection: Connection::Unknown, early_bytes: 0 };
        let sources = on_demand.into_iter().map(source).collect();
        Self { channels: HashMap::new(), sources, generations: 0, early: 0 }
    }

    /// Whether any source must be asked for a channel before its messages arrive.
    pub(super) fn is_on_demand(&self) -> bool {
        self.on_demand() != 0
    }

    fn on_demand(&self) -> Bits {
        self.bits(|source| source.on_demand)
    }

    fn disconnected_bits(&self) -> Bits {
        self.bits(|source| source.connection == Connection::Disconnected)
    }

    fn bits(&self, is: impl Fn(&SourceState) -> bool) -> Bits {
        self.sources.iter().enumerate().fold(0, |bits, (source, state)| bits | (Bits::from(is(state)) << source))
    }

    /// A shard subscribes to a channel. True if it is open already; else an answer follows.
    pub(super) fn subscribe(&mut self, shard: usize, name: &ChannelName, actions: &mut Vec<Action>) -> bool {
        if let Some(channel) = self.channels.get_mut(name) {
            channel.shards |= 1 << shard;
            return channel.open;
        }
        let open = self.on_demand() & !self.disconnected_bits() == 0;
        self.add(name, 1 << shard, open, actions);
        if open {
            actions.push(Action::Open { name: name.clone(), complete: false });
        }
        false
    }

    /// Subscribes to a channel that the shards `shards` take to be open: at an upgrade.
    pub(super) fn subscribe_open(&mut self, shards: Bits, name: &ChannelName, actions: &mut Vec<Action>) {
        if !self.channels.contains_key(name) {
            self.add(name, shards, true, actions);
        }
    }

    fn add(&mut self, name: &ChannelName, shards: Bits, open: bool, actions: &mut Vec<Action>) {
        let generation = self.next_generation();
        let pending = self.on_demand();
        let channel = Channel { shards, pending, refused: 0, open, generation, early: Vec::new() };
        self.channels.insert(name.clone(), channel);
        self.ask_all(|| Interest::Subscribe(name.clone(), generation), actions);
    }

    /// A generation that no other subscription has.
    pub(super) fn next_generation(&mut self) -> Generation {
        self.generations += 1;
        Generation(self.generations)
    }

    fn ask_all(&self, interest: impl Fn() -> Interest, actions: &mut Vec<Action>) {
        let asked = self.sources.iter().enumerate().filter(|(_, source)| source.on_demand);
        actions.extend(asked.map(|(source, _)| Action::Ask(source, interest())));
    }

    /// Ends a shard's subscription to a channel.
    pub(super) fn release(&mut self, shard: usize, name: &ChannelName, actions: &mut Vec<Action>) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        channel.shards &= !(1 << shard);
        if channel.shards == 0 {
            self.remove(name, actions);
            actions.push(Action::Unsubscribed(name.clone()));
        }
    }

    /// Forgets a channel, and ends its subscriptions.
    pub(super) fn remove(&mut self, name: &ChannelName, actions: &mut Vec<Action>) {
        let Some(channel) = self.channels.remove(name) else { return };
        for early in channel.early {
            self.sources[early.source].early_bytes -= weight(&early.message);
        }
        self.ask_all(|| Interest::Unsubscribe(name.clone()), actions);
    }

    /// Whether a message of `source` on channel `name` goes on.
    pub(super) fn admit(&self, source: SourceId, name: &ChannelName) -> Admission {
        match self.channels.get(name) {
            Some(channel) if channel.pending & (1 << source) == 0 => Admission::Ready,
            Some(_) => Admission::Early,
            None if self.sources[source].on_demand => Admission::Unsubscribed,
            None => Admission::Ready,
        }
    }

    /// Keeps a message until its source confirms its channel. False if it was dropped: too many are kept.
    pub(super) fn keep_early(&mut self, source: SourceId, message: Message) -> bool {
        let Some(channel) = self.channels.get_mut(&message.channel) else { return false };
        let state = &mut self.sources[source];
        if state.early_bytes >= EARLY_BYTES {
            return false;
        }
        state.early_bytes += weight(&message);
        self.early += 1;
        channel.early.push(Early { source, number: self.early, message });
        true
    }

    /// A source delivers the channels of these subscriptions from now on.
    pub(super) fn confirmed<'a>(
        &mut self,
        source: SourceId,
        confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
        actions: &mut Vec<Action>,
    ) {
        let disconnected = self.disconnected_bits();
        let (mut gap, mut early) = (Vec::new(), Vec::new());
        for (name, generation) in confirmed {
            let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.generation == generation) else {
                continue;
            };
            if channel.answer(source) != Answer::Pending {
                continue;
            }
            channel.pending &= !(1 << source);
            if channel.open {
                gap.push(name.clone());
            } else if channel.pending & !disconnected == 0 {
                channel.open = true;
                actions.push(Action::Open { name: name.clone(), complete: true });
            }
            early.extend(channel.early.extract_if(.., |early| early.source == source));
        }
        if !gap.is_empty() {
            actions.push(Action::Gap(source, gap));
        }
        early.sort_unstable_by_key(|early| early.number);
        for Early { message, .. } in early {
            self.sources[source].early_bytes -= weight(&message);
            actions.push(Action::Release(source, message));
        }
    }

    /// A source may not deliver the channel of this subscription.
    pub(super) fn refused(
        &mut self,
        source: SourceId,
        name: &ChannelName,
        generation: Generation,
        reason: &Arc<str>,
        actions: &mut Vec<Action>,
    ) {
        let (on_demand, disconnected) = (self.on_demand(), self.disconnected_bits());
        let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.generation == generation) else {
            return;
        };
        if channel.answer(source) == Answer::Refused {
            return;
        }
        channel.pending &= !(1 << source);
        channel.refused |= 1 << source;
        let dropped = channel.early.extract_if(.., |early| early.source == source);
        self.sources[source].early_bytes -= dropped.map(|early| weight(&early.message)).sum::<usize>();
        let others = on_demand.count_ones() as usize != self.sources.len();
        if channel.refused == on_demand && !others {
            // Its clients may have missed something since the source was disconnected.
            if channel.open {
                actions.push(Action::Gap(source, vec![name.clone()]));
            }
            self.channels.remove(name);
            actions.push(Action::Refuse(name.clone(), Arc::clone(reason)));
        } else if channel.open {
            // Other sources deliver it; what this one had may be missed.
            actions.push(Action::Gap(source, vec![name.clone()]));
        } else if channel.pending & !disconnected == 0 {
            channel.open = true;
            let complete = on_demand & !channel.pending & !channel.refused != 0 || others;
            actions.push(Action::Open { name: name.clone(), complete });
        }
    }

    /// A source is disconnected, or could not be connected again: joins don't wait for it.
    pub(super) fn disconnected(&mut self, source: SourceId, actions: &mut Vec<Action>) {
        self.sources[source].connection = Connection::Disconnected;
        self.sources[source].early_bytes = 0;
        let (on_demand, disconnected) = (self.on_demand(), self.disconnected_bits());
        for (name, channel) in &mut self.channels {
            // A message that is kept would be delivered after the gap, though the loss is later than the message.
            channel.early.retain(|early| early.source != source);
            if on_demand & (1 << source) != 0 && channel.answer(source) == Answer::Confirmed {
                channel.pending |= 1 << source;
            }
            if !channel.open && channel.pending & !disconnected == 0 {
                channel.open = true;
                let complete = on_demand & !channel.pending & !channel.refused != 0;
                actions.push(Action::Open { name: name.clone(), complete });
            }
        }
    }

    /// A source is connected (again), and delivers the channels of these subscriptions from now on.
    pub(super) fn reconnected<'a>(
        &mut self,
        source: SourceId,
        confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
        actions: &mut Vec<Action>,
    ) {
        let was = std::mem::replace(&mut self.sources[source].connection, Connection::Connected);
        for (name, channel) in &mut self.channels {
            // It may allow the channel now.
            if channel.answer(source) == Answer::Refused {
                channel.refused &= !(1 << source);
                channel.pending |= 1 << source;
                actions.push(Action::Ask(source, Interest::Subscribe(name.clone(), channel.generation)));
            }
        }
        if !self.sources[source].on_demand && was == Connection::Disconnected {
            actions.push(Action::Gap(source, self.channels.keys().cloned().collect()));
        }
        self.confirmed(source, confirmed, actions);
    }

    /// Sources that are not connected.
    pub(super) fn disconnected_sources(&self) -> Vec<SourceId> {
        let sources = self.sources.iter().enumerate();
        sources.filter(|(_, state)| state.connection != Connection::Connected).map(|(source, _)| source).collect()
    }

    /// Whether every source has reported that it is connected or disconnected.
    pub(super) fn is_settled(&self) -> bool {
        self.sources.iter().all(|source| source.connection != Connection::Unknown)
    }

    /// Whether each of these sources has reported that it is connected or disconnected, and has answered about every channel.
    pub(super) fn is_answered(&self, among: Bits) -> bool {
        self.bits(|source| source.connection == Connection::Unknown) & among == 0
            && self.channels.values().all(|channel| channel.pending & among == 0)
    }

    /// A durable source continues at its checkpoint: it delivers all open channels without a gap.
    pub(super) fn resumed(&mut self, source: SourceId) {
        for channel in self.channels.values_mut().filter(|channel| channel.open) {
            channel.pending &= !(1 << source);
        }
    }

    /// Whether a source has not answered about the channel yet; `None` if no shard is subscribed to it.
    pub(super) fn is_pending(&self, name: &ChannelName) -> Option<bool> {
        self.channels.get(name).map(|channel| channel.pending != 0)
    }

    /// The channels that shards are subscribed to.
    pub(super) fn names(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.keys()
    }
}

/// Bytes that a message takes while it is kept.
pub(super) fn weight(message: &Message) -> usize {
    message.data.len() + MESSAGE_OVERHEAD
}
