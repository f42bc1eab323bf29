//! Clients that have read more of a journal elsewhere than this node has read yet. They get what is due from the histories, and
//! become live when the node has read what they have. Where that was lost, they get a gap event.
//!
//! Invariant: a stream that has everything due and is ahead of the hub, and a poll that waits and is ahead, stands in
//! [`super::ahead::Ahead`].

use std::{mem, time::Instant};

use super::{core::Shard, frames::Ping};
use crate::{
    cursor::{Entry, Position},
    event::Coding,
    hub::Kind,
    sse,
};

impl Shard {
    /// A client that is catching up has everything that is due. It becomes live, unless it has read more of a journal elsewhere: then
    /// the next events are not for it.
    pub(super) fn has_everything(&mut self, slot: u32) {
        let (last, passed) = (self.hub.last(), self.hub.passed());
        let client = &mut self.clients[slot];
        let (group, key) = (client.group(), client.key(slot));
        let Some(catching_up) = client.catching_up() else { return };
        if !self.hub.is_ahead(group, &catching_up.reader) {
            return self.become_live(slot);
        }
        catching_up.reader.catch_up(last, passed);
        if !mem::replace(&mut catching_up.ahead, true) {
            self.ahead.add_new(key);
        }
        if mem::take(&mut catching_up.unwritten.watched) {
            self.clients.unwatch_writable(slot);
        }
    }

    /// Serves the clients that are ahead of the hub, if the hub has moved since the last time.
    pub(super) fn serve_ahead(&mut self) {
        for key in self.ahead.take(self.hub.last()) {
            if self.clients.with_key(key).is_none() {
                continue; // It has ended.
            }
            let client = &mut self.clients[key.slot];
            if let Some(catching_up) = client.catching_up() {
                catching_up.ahead = false;
                self.serve(key.slot);
            } else if let Some(poll) = client.state().as_waiting() {
                let needs_past = self.hub.needs_past(client.group(), &poll.reader);
                if !needs_past && self.hub.is_ahead(client.group(), &poll.reader) {
                    self.ahead.add_new(key);
                } else {
                    self.answer_poll(key.slot, false);
                }
            }
        }
    }

    /// A journal's last entry was `end` when it was asked at `asked`: clients that are ahead, and came before, get a gap event. Their
    /// entry is lost.
    pub(super) fn report_lost_entries(&mut self, end: Entry, asked: Instant) {
        let last = self.hub.last();
        for key in self.ahead.clients() {
            if self.clients.with_key(key).is_none() {
                continue;
            }
            let client = &mut self.clients[key.slot];
            if let Some(catching_up) = client.catching_up() {
                // It gets the gap event when the clients that are ahead are served.
                catching_up.reader.note_reached(end, asked, last);
            } else if let Some(poll) = client.waiting()
                && poll.reader.note_reached(end, asked, last)
            {
                self.answer_poll(key.slot, false);
            }
        }
    }

    /// Pings a stream that is ahead of the hub, with its own cursor.
    pub(super) fn ping_ahead(&mut self, slot: u32) {
        let client = &mut self.clients[slot];
        let gzip = matches!(self.hub.kind(client.group()), Kind::Stream(_, Coding::Gzip));
        let node = self.hub.node();
        let Some(catching_up) = client.catching_up() else { return };
        let ping = Ping::new(sse::encode_ping(&catching_up.reader.id(node)));
        catching_up.unwritten.bytes = if gzip { ping.stored } else { ping.plain };
        client.set_gzip_before(Position(0));
        self.serve(slot);
    }
}
