//! Counts deliveries, losses, wrong order, duplicates and delivery times of one run. No I/O and no clock.
//!
//! For each event, it keeps the set of clients that have not got it, until all have. So duplicates, losses and late arrivals are
//! distinguished exactly, and only undelivered events use memory.

use serde::Serialize;

use crate::{channels::ChannelPlan, histogram::Histogram, stamp::Stamp};

/// The counts of a run.
#[derive(Debug)]
pub struct Tally<'a> {
    plan: &'a ChannelPlan,
    run: u32,
    /// By channel: the clients that its next event is due to.
    due: Vec<Due>,
    events: Vec<Event>,
    /// Events that some client still has to get.
    under_way: usize,
    /// By client: the highest sequence it has got, plus one.
    last: Vec<u32>,
    /// By channel: microseconds from publish until all had it, one an event.
    to_all: Vec<Vec<u64>>,
    latency: Histogram,
    counts: Counts,
}

/// Deliveries and faults.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counts {
    /// Expected deliveries.
    pub expected: u64,
    /// Deliveries that arrived.
    pub delivered: u64,
    /// Deliveries that did not arrive.
    pub lost: u64,
    /// Arrived after an event that was published later.
    pub out_of_order: u64,
    /// Arrived once more.
    pub duplicates: u64,
    /// Arrived at a client that is not subscribed to the channel.
    pub strays: u64,
    /// Events of this channel that are not this run's.
    pub foreign: u64,
    /// Streams that the server ended.
    pub closed: u64,
}

impl Counts {
    /// Whether every client got every event, once and in order.
    #[must_use]
    pub fn flawless(&self) -> bool {
        self.delivered == self.expected && self.out_of_order + self.duplicates + self.strays + self.closed == 0
    }
}

#[derive(Debug)]
struct Event {
    channel: usize,
    sent: u64,
    /// Removed when all clients have the event.
    due: Option<Due>,
}

/// The clients that have not got an event yet.
#[derive(Debug, Clone)]
struct Due {
    /// A bit a client.
    bits: Box<[u64]>,
    count: usize,
}

impl Due {
    fn new(clients: usize, has: impl Fn(usize) -> bool) -> Self {
        let mut due = Self { bits: vec![0; clients.div_ceil(64)].into(), count: 0 };
        for client in (0..clients).filter(|&client| has(client)) {
            due.bits[client / 64] |= 1 << (client % 64);
            due.count += 1;
        }
        due
    }

    /// Removes `client`. Returns false if it is not in the set.
    fn remove(&mut self, client: usize) -> bool {
        let bit = 1 << (client % 64);
        let was = self.bits[client / 64] & bit != 0;
        self.bits[client / 64] &= !bit;
        self.count -= usize::from(was);
        was
    }
}

impl<'a> Tally<'a> {
    /// An empty tally for the client numbers below `clients` that are `open`; `run` is on the run's stamps.
    #[must_use]
    pub fn new(plan: &'a ChannelPlan, clients: usize, open: impl Fn(usize) -> bool, run: u32) -> Self {
        let channels = plan.channels().iter();
        let due: Vec<Due> = channels.map(|planned| Due::new(clients, |c| planned.has(c) && open(c))).collect();
        Self {
            plan,
            run,
            to_all: vec![Vec::new(); due.len()],
            due,
            events: Vec::new(),
            under_way: 0,
            last: vec![0; clients],
            latency: Histogram::default(),
            counts: Counts::default(),
        }
    }

    /// Counts an event in that is about to be published on the plan's channel number `channel`. Gives its stamp.
    pub fn publish(&mut self, channel: usize, now: u64) -> Stamp {
        let sequence = self.events.len() as u32;
        let due = Some(self.due[channel].clone()).filter(|due| due.count > 0);
        self.counts.expected += self.due[channel].count as u64;
        self.under_way += usize::from(due.is_some());
        self.events.push(Event { channel, sent: now, due });
        Stamp { run: self.run, sequence, sent: now }
    }

    /// A `data:` line arrived at `client`.
    pub fn arrived(&mut self, client: usize, payload: &[u8], now: u64) {
        let stamp = Stamp::read(payload).filter(|stamp| stamp.run == self.run);
        let Some((stamp, event)) = stamp.and_then(|s| Some((s, self.events.get_mut(s.sequence as usize)?))) else {
            self.counts.foreign += 1;
            return;
        };
        if !event.due.as_mut().is_some_and(|due| due.remove(client)) {
            let asked_for = self.plan.channels()[event.channel].has(client);
            *(if asked_for { &mut self.counts.duplicates } else { &mut self.counts.strays }) += 1;
            return;
        }
        let took = now.saturating_sub(event.sent);
        self.latency.add(took);
        self.counts.delivered += 1;
        if stamp.sequence < self.last[client] {
            self.counts.out_of_order += 1;
        } else {
            self.last[client] = stamp.sequence + 1;
        }
        if event.due.as_ref().is_some_and(|due| due.count == 0) {
            event.due = None;
            self.to_all[event.channel].push(took);
            self.under_way -= 1;
        }
    }

    /// The server has ended the stream of `client`: what it has not got is lost.
    pub fn closed(&mut self, client: usize) {
        self.counts.closed += 1;
        for due in &mut self.due {
            due.remove(client);
        }
        for event in &mut self.events {
            if event.due.as_mut().is_some_and(|due| due.remove(client) && due.count == 0) {
                event.due = None;
                self.under_way -= 1;
            }
        }
    }

    /// Number of published events.
    #[must_use]
    pub fn published(&self) -> usize {
        self.events.len()
    }

    /// Number of events that some client has not got yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// The counts. Deliveries that have not arrived count as lost.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { lost: self.counts.expected - self.counts.delivered, ..self.counts }
    }

    /// Publish to arrival, in microseconds.
    #[must_use]
    pub fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// By the plan's channel: its open clients, and microseconds from publish until all had it, one for each event
    /// that all got.
    pub fn to_all(&self) -> impl Iterator<Item = (usize, &[u64])> {
        self.due.iter().map(|due| due.count).zip(self.to_all.iter().map(Vec::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 64;

    #[test]
    fn each_kind_of_fault_has_its_own_count() {
        let plan: ChannelPlan = "all,odd+even".parse().unwrap();
        let mut tally = Tally::new(&plan, 4, |client| client < 3, 7);
        let events = [0, 0, 1, 0].map(|channel| tally.publish(channel, 100).payload(SIZE));
        let mut arrive = |client: usize, event: usize| tally.arrived(client, events[event].as_bytes(), 250);
        for client in [0, 1, 2] {
            arrive(client, 0);
        }
        arrive(0, 0); // a duplicate of what all have
        arrive(1, 3);
        arrive(1, 1); // late
        arrive(1, 1); // a duplicate of what is under way
        arrive(1, 2); // not its channel: of `odd+even` it has the second
        tally.arrived(0, b"hello", 250);
        assert_eq!(tally.under_way(), 3);
        tally.closed(2);
        tally.closed(0);
        assert_eq!(tally.under_way(), 0);

        let counts = tally.counts();
        assert_eq!((counts.expected, counts.delivered, counts.lost), (11, 5, 6));
        assert_eq!((counts.out_of_order, counts.duplicates, counts.strays), (1, 2, 1));
        assert_eq!((counts.foreign, counts.closed), (1, 2));
        assert!(!counts.flawless());
        let to_all: Vec<_> = tally.to_all().collect();
        assert_eq!(to_all, [(1, &[150][..]), (0, &[][..]), (1, &[][..])]);
    }
}
