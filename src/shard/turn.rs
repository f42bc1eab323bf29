//! Does what a shard's queue holds. What needs connections or the runtime is left to the loop ([`super::runner`]).

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    rc::Rc,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    core::{Flushed, Shard},
    queue::Op,
};
use crate::{
    broker::{Delivery, JournalReport, ShardQuery},
    clock::Uptime,
    cursor::{Entry, Position},
    hub::{GroupId, Hole, Reader},
    name::ChannelName,
    snapshot::Transfer,
    stream::Stream,
};

/// Batches are sent when their events have this many bytes, which is about what a socket takes.
const BYTES_A_FLUSH: usize = 128 << 10;

/// What a turn leaves to the shard's loop: the operations of the same names.
#[derive(Default)]
pub(super) struct Turned {
    pub(super) accepted: Vec<Stream>,
    pub(super) pause: Option<oneshot::Sender<()>>,
    pub(super) capture: Option<oneshot::Sender<Transfer>>,
    pub(super) resume: bool,
    /// The time within which clients are to reconnect, and what is dropped when no client and no request is left.
    pub(super) drain: Option<(Duration, Rc<oneshot::Sender<()>>)>,
}

impl Shard {
    /// Does `ops` in order, and sends the batches unless `stream.coalesce` says to wait. Leaves `ops` empty.
    pub(super) fn turn(&mut self, ops: &mut Vec<Op>) -> Turned {
        let mut turned = Turned::default();
        let now = Uptime::now();
        for op in ops.drain(..) {
            match op {
                Op::Deliver(Delivery::Publish(event, receipt)) => {
                    let clients = self.hub.publish(&event, now);
                    if let Some((receipt, index)) = receipt {
                        receipt.count(index, clients);
                    }
                    if self.hub.unsent_bytes() >= BYTES_A_FLUSH {
                        self.flush();
                    }
                }
                // Queries are frequent and touch no client: they don't send the batches before `stream.coalesce` is over.
                Op::Deliver(Delivery::Query(query)) => self.answer(query),
                Op::Accept(stream) => turned.accepted.push(stream),
                Op::Deliver(delivery) => self.flush().handle(delivery),
                Op::Drain(spread, gone) => {
                    let gone = Rc::new(gone);
                    turned.drain = Some((spread, Rc::clone(&gone)));
                    self.flush().drain(spread, gone);
                }
                Op::Pause(wanted) => turned.pause = Some(wanted),
                Op::Capture(wanted) => turned.capture = Some(wanted),
                Op::Resume => {
                    // The upgrade failed before this turn did what it asked for.
                    (turned.pause, turned.capture) = (None, None);
                    turned.resume = true;
                }
                Op::Stop => self.flush().stop(),
            }
        }
        if self.config().stream.coalesce.is_zero() || turned.capture.is_some() {
            self.flush();
        }
        turned
    }

    fn answer(&self, query: ShardQuery) {
        match query {
            ShardQuery::Subscribers { names, receipt } => {
                for (name, index) in names.iter().zip(0..) {
                    receipt.count(index, self.hub.subscribers_of(name));
                }
            }
            ShardQuery::Passed(answer) => drop(answer.send(())), // Nobody may be waiting any more.
            ShardQuery::Channels(answer) => {
                let counts = self.hub.subscribers().map(|(name, count)| (name.clone(), count)).collect();
                let _ = answer.send(counts); // The receiver may have given up.
            }
            ShardQuery::ChannelHashes(answer) => {
                let hash =
                    |(name, _): (&ChannelName, u32)| BuildHasherDefault::<DefaultHasher>::default().hash_one(name);
                let _ = answer.send(self.hub.subscribers().map(hash).collect());
            }
        }
    }
}

impl Flushed<'_> {
    /// Does what the dispatcher delivers, except events and queries.
    fn handle(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Confirmed(name, since) => self.confirm(&name, since),
            Delivery::Reconnected(names, hole) => self.restore(&names, hole),
            Delivery::Refused(name, reason) => self.refuse(&name, &reason),
            Delivery::Advance(position) => self.hub.advance(position),
            Delivery::Timed(timed) => self.hub.set_timed(timed),
            Delivery::Lag(span) => self.hub.note_lag(span),
            Delivery::Unsubscribed(name) => self.hub.set_unsubscribed(&name),
            Delivery::Journal(journal, report, hole) => self.journal(journal, report, hole),
            Delivery::Publish(..) | Delivery::Query(_) => {} // `turn` does these.
        }
    }

    fn confirm(&mut self, name: &ChannelName, since: Option<Position>) {
        self.hub.confirm(name, since);
        for id in self.hub.channels_under(name) {
            self.answer_waiting(id, true);
        }
    }

    /// No source delivers the channel, or the channels of a rule. Closes their clients: they reconnect and get a 403 that says
    /// why.
    fn refuse(&mut self, name: &ChannelName, reason: &str) {
        let mut clients = Vec::new();
        for id in self.hub.channels_under(name) {
            self.hub.set_wanted(id, false);
            self.answer_waiting(id, false);
            clients.extend(self.hub.clients_of(id));
        }
        clients.sort_unstable();
        clients.dedup();
        tracing::debug!(channel = %name, reason, clients = clients.len(), "a channel is refused: its clients are closed");
        let spread = self.config().drain.spread;
        for slot in clients {
            self.close_with_retry(slot, spread);
        }
        self.hub.set_unsubscribed(name);
    }

    /// Sends gap events to the clients of the channels, for the time in which a source was disconnected.
    fn restore(&mut self, names: &[ChannelName], hole: Hole) {
        let mut groups: Vec<GroupId> = Vec::new();
        for name in names {
            self.hub.restore(name, hole, &mut groups);
        }
        groups.sort_unstable();
        groups.dedup();
        let before = self.before(hole);
        for group in groups {
            self.serve_group_after(group, &before);
        }
    }

    /// Does what a source has reported about one of its journals.
    fn journal(&mut self, journal: u8, report: JournalReport, hole: Hole) {
        let before = self.before(hole);
        let entry = |id| Entry { journal, id };
        let groups = match report {
            JournalReport::Began { since, until } => self.hub.journal_began(entry(since), until, hole),
            JournalReport::Lost { end } => self.hub.journal_lost(entry(end), hole),
            JournalReport::Reached { end, asked } => {
                self.hub.journal_reached(entry(end), hole.end);
                self.report_lost_entries(entry(end), asked);
                Vec::new()
            }
        };
        for group in groups {
            self.serve_group_after(group, &before);
        }
        self.serve_ahead();
    }

    /// The reader of a client that has everything before the end of `hole`, which the hub has not got yet.
    fn before(&self, hole: Hole) -> Reader {
        Reader::live(Position(hole.end.0 - 1)).with_passed(self.hub.passed())
    }
}
