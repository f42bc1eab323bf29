//! Which shards are subscribed to which channels, and which sources deliver them: a pure state machine, from inputs to lists
//! of [`Action`]s. It knows no lock, no clock and no queue.
//!
//! Invariants:
//! - A channel is *open* (its clients may join) once each source that must be asked for it has confirmed it, has refused it or
//!   is disconnected.
//! - A source that confirms an open channel gives a gap on it, and only then the messages that it sent before it confirmed.
//! - What one source reports about a channel changes nothing that other sources have reported about it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    event::Message,
    name::ChannelName,
    pattern::{self, PatternIndex},
};

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
#[non_exhaustive]
pub enum Interest {
    /// Deliver the messages of the channel from now on, or of all channels that the pattern matches ([`ChannelName::is_pattern`]), and
    /// confirm it with the generation when that is certain. A message is published once, however many subscriptions match it.
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

/// What a source, or all of them, have answered about one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was asked, or is disconnected.
    Pending,
    /// It delivers the channel.
    Confirmed,
    /// It may not deliver the channel.
    Refused,
}

/// One channel or pattern that a shard is subscribed to, or that is kept always.
struct Channel {
    /// Shards that are subscribed.
    shards: Bits,
    /// Sources that have neither confirmed nor refused it.
    pending: Bits,
    /// Sources that have refused it. Never one of `pending`.
    refused: Bits,
    /// Sources that have refused it, were disconnected, and were asked again: each is one of `pending`. They have delivered nothing of
    /// it, so nothing is lost where they refuse it again.
    refused_before: Bits,
    /// Sources that had confirmed it when they were disconnected. All of them are `pending`.
    interrupted: Bits,
    /// Whether clients may join it.
    open: bool,
    /// Whether it stays subscribed without shards: a rule keeps its channels always.
    pinned: bool,
    generation: Generation,
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
    /// Messages that came before it confirmed their channels, in order.
    early: Vec<Message>,
    /// Their bytes.
    early_bytes: usize,
}

/// See the module.
pub(super) struct Subscriptions {
    channels: HashMap<ChannelName, Channel>,
    /// Those of `channels` that are patterns.
    patterns: PatternIndex<()>,
    sources: Vec<SourceState>,
    generations: u64,
}

impl Subscriptions {
    /// No subscriptions yet. `on_demand`: for each source (at most 64), whether it must be asked for each channel.
    pub(super) fn new(on_demand: impl IntoIterator<Item = bool>) -> Self {
        let source =
            |on_demand| SourceState { on_demand, connection: Connection::Unknown, early: Vec::new(), early_bytes: 0 };
        let sources = on_demand.into_iter().map(source).collect();
        Self { channels: HashMap::new(), patterns: PatternIndex::default(), sources, generations: 0 }
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
        let channel =
            Channel { shards, pending, refused: 0, refused_before: 0, interrupted: 0, open, pinned: false, generation };
        self.channels.insert(name.clone(), channel);
        if name.is_pattern() {
            self.patterns.insert(name.clone(), ());
        }
        self.ask_all(|| Interest::Subscribe(name.clone(), generation), actions);
    }

    /// Subscribes to a name or a pattern for good, since a rule keeps its channels always. `open`: at an upgrade, where the
    /// shards may have its channels already.
    pub(super) fn pin(&mut self, name: &ChannelName, open: bool, actions: &mut Vec<Action>) {
        if self.is_on_demand() {
            if !self.channels.contains_key(name) {
                self.add(name, 0, open, actions);
            }
            if let Some(channel) = self.channels.get_mut(name) {
                channel.pinned = true;
            }
        }
    }

    /// The names and patterns that are subscribed to for good, each with the answer of all sources that must be asked.
    pub(super) fn pinned(&self) -> Vec<(ChannelName, Answer)> {
        let pinned = self.channels.iter().filter(|(_, channel)| channel.pinned);
        let answer = |channel: &Channel| {
            if self.is_refused(channel) {
                Answer::Refused
            } else if channel.pending == 0 {
                Answer::Confirmed
            } else {
                Answer::Pending
            }
        };
        pinned.map(|(name, channel)| (name.clone(), answer(channel))).collect()
    }

    /// Whether no source may deliver the channel.
    fn is_refused(&self, channel: &Channel) -> bool {
        let on_demand = self.on_demand();
        channel.refused == on_demand && on_demand.count_ones() as usize == self.sources.len()
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
        if channel.shards == 0 && !channel.pinned {
            self.remove(name, actions);
            actions.push(Action::Unsubscribed(name.clone()));
        }
    }

    /// Forgets a channel, and ends its subscriptions.
    pub(super) fn remove(&mut self, name: &ChannelName, actions: &mut Vec<Action>) {
        let Some(channel) = self.take(name) else { return };
        for source in 0..self.sources.len() {
            let under = self.unconfirmed_under(source, std::slice::from_ref(name));
            if channel.answer(source) == Answer::Confirmed && !under.is_empty() {
                actions.push(Action::Gap(source, under));
            }
            self.settle_early(source, actions);
        }
        self.ask_all(|| Interest::Unsubscribe(name.clone()), actions);
    }

    fn take(&mut self, name: &ChannelName) -> Option<Channel> {
        self.patterns.remove(name);
        self.channels.remove(name)
    }

    /// Whether a message of `source` on channel `name` goes on.
    pub(super) fn admit(&self, source: SourceId, name: &ChannelName) -> Admission {
        let mut admission = match self.channels.get(name) {
            Some(channel) if channel.pending & (1 << source) == 0 => return Admission::Ready,
            Some(_) => Admission::Early,
            None if self.sources[source].on_demand => Admission::Unsubscribed,
            None => return Admission::Ready,
        };
        for (pattern, ()) in self.patterns.matching(name) {
            match self.channels.get(pattern).map(|channel| channel.answer(source)) {
                Some(Answer::Confirmed) => return Admission::Ready,
                Some(Answer::Pending) => admission = Admission::Early,
                Some(Answer::Refused) | None => {}
            }
        }
        admission
    }

    /// The channel, and the patterns that match it and that shards are subscribed to.
    pub(super) fn with_patterns(&self, name: &ChannelName) -> Vec<ChannelName> {
        let is_wanted = |pattern: &&ChannelName| self.channels.get(*pattern).is_some_and(|channel| channel.shards != 0);
        let patterns = self.patterns.matching(name).map(|(pattern, ())| pattern).filter(is_wanted);
        std::iter::once(name).chain(patterns).cloned().collect()
    }

    /// Keeps a message until its source confirms its channel, or a pattern that matches it. False if it was dropped: too many are
    /// kept.
    pub(super) fn keep_early(&mut self, source: SourceId, message: Message) -> bool {
        let state = &mut self.sources[source];
        if state.early_bytes >= EARLY_BYTES {
            return false;
        }
        state.early_bytes += weight(&message);
        state.early.push(message);
        true
    }

    /// Releases the early messages of a source whose channels it delivers now, and drops those that no shard is subscribed to any
    /// more.
    fn settle_early(&mut self, source: SourceId, actions: &mut Vec<Action>) {
        for message in std::mem::take(&mut self.sources[source].early) {
            match self.admit(source, &message.channel) {
                Admission::Early => {
                    self.sources[source].early.push(message);
                    continue;
                }
                Admission::Ready => {
                    self.sources[source].early_bytes -= weight(&message);
                    actions.push(Action::Release(source, message));
                }
                Admission::Unsubscribed => self.sources[source].early_bytes -= weight(&message),
            }
        }
    }

    /// A source delivers the channels of these subscriptions from now on.
    pub(super) fn confirmed<'a>(
        &mut self,
        source: SourceId,
        confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
        actions: &mut Vec<Action>,
    ) {
        let disconnected = self.disconnected_bits();
        let (mut gap, mut patterns) = (Vec::new(), Vec::new());
        for (name, generation) in confirmed {
            let Some(channel) = self.channels.get_mut(name).filter(|channel| channel.generation == generation) else {
                continue;
            };
            if channel.answer(source) != Answer::Pending {
                continue;
            }
            channel.pending &= !(1 << source);
            channel.refused_before &= !(1 << source);
            channel.interrupted &= !(1 << source);
            if name.is_pattern() {
                patterns.push(name.clone());
            }
            if channel.open {
                gap.push(name.clone());
            } else if channel.pending & !disconnected == 0 {
                channel.open = true;
                actions.push(Action::Open { name: name.clone(), complete: true });
            }
        }
        // Also of a pattern that another source keeps from opening: the channel may be open.
        let under = self.unconfirmed_under(source, &patterns);
        gap.extend(under.into_iter().filter(|name| !gap.contains(name)).collect::<Vec<_>>());
        if !gap.is_empty() {
            actions.push(Action::Gap(source, gap));
        }
        self.settle_early(source, actions);
    }

    /// The open channels and patterns that the source has not confirmed, but delivers in part because of `names`: they share its
    /// losses.
    fn unconfirmed_under(&self, source: SourceId, names: &[ChannelName]) -> Vec<ChannelName> {
        let is_unconfirmed = |channel: &Channel| channel.open && channel.answer(source) != Answer::Confirmed;
        let (patterns, names): (Vec<&ChannelName>, Vec<&ChannelName>) =
            names.iter().partition(|name| name.is_pattern());
        let mut under: HashSet<&ChannelName> = HashSet::new();
        for name in &names {
            let matching =
                self.patterns.matching(name).filter_map(|(pattern, ())| self.channels.get_key_value(pattern));
            under.extend(matching.filter(|(_, channel)| is_unconfirmed(channel)).map(|(pattern, _)| pattern));
        }
        if !patterns.is_empty() {
            let overlaps = |name: &ChannelName| {
                patterns.iter().any(|pattern| *pattern != name && pattern::overlap(pattern.as_str(), name.as_str()))
            };
            let unconfirmed = self.channels.iter().filter(|(_, channel)| is_unconfirmed(channel));
            under.extend(unconfirmed.map(|(name, _)| name).filter(|name| overlaps(name)));
        }
        under.into_iter().filter(|name| !patterns.contains(name) && !names.contains(name)).cloned().collect()
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
        let before = channel.refused_before & (1 << source) != 0;
        channel.refused_before &= !(1 << source);
        channel.pending &= !(1 << source);
        channel.interrupted &= !(1 << source);
        channel.refused |= 1 << source;
        let state = &mut self.sources[source];
        let dropped = state.early.extract_if(.., |early| early.channel == *name);
        state.early_bytes -= dropped.map(|early| weight(&early)).sum::<usize>();
        let others = on_demand.count_ones() as usize != self.sources.len();
        if channel.refused == on_demand && !others {
            // Its clients may have missed something since the source was disconnected.
            if channel.open {
                actions.push(Action::Gap(source, vec![name.clone()]));
            }
            // What is pinned is asked for again when the source is reconnected.
            if channel.pinned {
                (channel.open, channel.shards) = (false, 0);
            } else {
                self.take(name);
            }
            actions.push(Action::Refuse(name.clone(), Arc::clone(reason)));
        } else if channel.open && before {
            // Other sources deliver it, and this one never did.
        } else if channel.open {
            // Other sources deliver it; what this one had may be missed.
            actions.push(Action::Gap(source, vec![name.clone()]));
        } else if channel.pending & !disconnected == 0 {
            channel.open = true;
            let complete = on_demand & !channel.pending & !channel.refused != 0 || others;
            actions.push(Action::Open { name: name.clone(), complete });
        }
        self.settle_early(source, actions);
    }

    /// A source is disconnected, or could not be connected again: joins don't wait for it.
    pub(super) fn disconnected(&mut self, source: SourceId, actions: &mut Vec<Action>) {
        self.sources[source].connection = Connection::Disconnected;
        // A message that is kept would be delivered after the gap, though the loss is later than the message.
        (self.sources[source].early, self.sources[source].early_bytes) = (Vec::new(), 0);
        let (on_demand, disconnected) = (self.on_demand(), self.disconnected_bits());
        let others = on_demand.count_ones() as usize != self.sources.len();
        for (name, channel) in &mut self.channels {
            if on_demand & (1 << source) != 0 && channel.answer(source) == Answer::Confirmed {
                channel.pending |= 1 << source;
                channel.interrupted |= 1 << source;
            }
            let refused = channel.refused == on_demand && !others;
            if !channel.open && !refused && channel.pending & !disconnected == 0 {
                channel.open = true;
                let complete = on_demand & !channel.pending & !channel.refused != 0;
                actions.push(Action::Open { name: name.clone(), complete });
            }
        }
    }

    /// A source is connected (again), and delivers the channels of these subscriptions from now on. `lossless`: nothing was lost of
    /// the channels that it had confirmed when it was disconnected.
    pub(super) fn connected<'a>(
        &mut self,
        source: SourceId,
        lossless: bool,
        confirmed: impl IntoIterator<Item = (&'a ChannelName, Generation)>,
        actions: &mut Vec<Action>,
    ) {
        let was = std::mem::replace(&mut self.sources[source].connection, Connection::Connected);
        for (name, channel) in &mut self.channels {
            // It may allow the channel now.
            if channel.answer(source) == Answer::Refused {
                channel.refused &= !(1 << source);
                channel.refused_before |= 1 << source;
                channel.pending |= 1 << source;
                actions.push(Action::Ask(source, Interest::Subscribe(name.clone(), channel.generation)));
            }
            if lossless {
                channel.pending &= !channel.interrupted | !(1 << source);
            }
            channel.interrupted &= !(1 << source);
        }
        if !lossless && !self.sources[source].on_demand && was == Connection::Disconnected {
            actions.push(Action::Gap(source, self.channels.keys().cloned().collect()));
        }
        let confirmed: Vec<(&ChannelName, Generation)> = confirmed.into_iter().collect();
        self.confirmed(source, confirmed.iter().copied(), actions);
        // A pattern that it refuses got events by the names that it delivers. They were lost to the pattern as well.
        let shares = |(name, channel): &(&ChannelName, &Channel)| {
            name.is_pattern()
                && channel.open
                && channel.answer(source) != Answer::Confirmed
                && confirmed.iter().any(|(other, _)| pattern::matches(name.as_str(), other.as_str()))
        };
        let lost: Vec<ChannelName> = self.channels.iter().filter(shares).map(|(name, _)| name.clone()).collect();
        if !lossless && was == Connection::Disconnected && !lost.is_empty() {
            actions.push(Action::Gap(source, lost));
        }
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
    pub(super) fn wanted(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.iter().filter(|(_, channel)| channel.shards != 0).map(|(name, _)| name)
    }

    /// The channels that shards are subscribed to, and those that are kept always.
    pub(super) fn names(&self) -> impl Iterator<Item = &ChannelName> {
        self.channels.keys()
    }
}

/// Bytes that a message takes while it is kept.
pub(super) fn weight(message: &Message) -> usize {
    message.data.len() + MESSAGE_OVERHEAD
}
