//! Closes clients and says when to reconnect: all clients when the daemon stops, some when a channel is refused. It does not end
//! the shard.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    core::{Flushed, Shard},
    state::{ClientState, OtherState},
};
use crate::{config::DurationRange, cursor::Cursor, event::Coding, gzip, hub::Kind, sse};

/// Shortest time before a closed client is to reconnect. By then the next process should serve.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);

/// Picks how long a closed client is to wait before it reconnects: at most `spread`, or the shortest time if that is longer.
pub(super) fn pick_retry(spread: Duration) -> Duration {
    DurationRange { min: SHORTEST_RETRY, max: spread.max(SHORTEST_RETRY) }.pick()
}

impl Flushed<'_> {
    /// Closes all clients, and those that join later. They are to reconnect within `spread`. `gone` is dropped when no client is
    /// left.
    pub(super) fn drain(&mut self, spread: Duration, gone: Rc<oneshot::Sender<()>>) {
        self.begin_draining(spread, gone);
        for slot in self.clients.slots() {
            self.close_with_retry(slot, spread);
        }
    }

    /// Closes a client. A stream gets the rest of the frame that it is in the middle of, and a close event that says when to
    /// reconnect: within `spread`. A poll is answered.
    pub(super) fn close_with_retry(&mut self, slot: u32, spread: Duration) {
        let Some(client) = self.clients.get(slot) else { return };
        match client.state() {
            ClientState::Live => {
                let now = self.clients.now();
                let last = self.closing_event(slot, spread, &self.hub.cursor());
                // If the socket does not take it, the client reconnects after its usual time.
                self.clients[slot].send(&last, now);
                self.clients.end(slot);
            }
            ClientState::Other(other) => match &**other {
                OtherState::Waiting(_) => self.answer_poll(slot, true),
                // The client gets the rest from the histories when it reconnects.
                OtherState::CatchingUp(catching_up) => {
                    let last = self.closing_event(slot, spread, &catching_up.reader.id(self.hub.node()));
                    self.close_after(slot, last);
                }
                OtherState::Closing(_) => {} // It is being closed already.
            },
        }
    }

    /// Cuts all clients that are left.
    pub(super) fn stop(&mut self) {
        self.clients.end_all();
    }
}

impl Shard {
    fn closing_event(&self, slot: u32, spread: Duration, cursor: &Cursor) -> Bytes {
        let event = sse::encode_close(pick_retry(spread), cursor);
        match self.hub.kind(self.clients[slot].group()) {
            Kind::Stream(_, Coding::Gzip) => gzip::store(&event),
            Kind::Stream(_, Coding::Identity) | Kind::Poll => event,
        }
    }
}
