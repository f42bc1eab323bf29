//! Closes clients with a time to reconnect: all of them when the daemon stops, some when a channel is refused.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    client::{ClientState, OtherState},
    core::{Flushed, Shard},
    socket::send_now,
};
use crate::{
    config::DurationRange,
    event::Coding,
    gzip,
    hub::{Kind, Reader},
    sse,
};

/// Shortest time after which a client that is closed is to reconnect: until then the next process serves.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);

impl Flushed<'_> {
    /// Closes all clients; `gone` is dropped when none is left.
    pub(super) fn drain(&mut self, spread: Duration, gone: oneshot::Sender<()>) {
        self.draining = Some((spread, gone));
        for slot in self.slots() {
            self.close_with_retry(slot, spread);
        }
    }

    /// Ends a client after it has the frame it is in the middle of, and a time to reconnect within `spread`. A poll is answered.
    pub(super) fn close_with_retry(&mut self, slot: u32, spread: Duration) {
        let Some(client) = self.clients.get(slot as usize) else { return };
        match &client.state {
            ClientState::Live => {
                let last = self.closing_event(slot, spread, &Reader::live(self.hub.last()));
                // What the socket doesn't take of so little, the client can do without.
                send_now(&client.fd, &last);
                self.ended.push(slot);
            }
            ClientState::Other(other) => match &**other {
                OtherState::Waiting(_) => {
                    let reader = Reader::live(self.hub.last());
                    self.answer_poll(slot, &reader, true);
                }
                // The histories serve the client when it is back.
                OtherState::CatchingUp(catching_up) => {
                    let last = self.closing_event(slot, spread, &catching_up.reader);
                    self.close_after(slot, last);
                }
                OtherState::Closing(_) => {} // It ends by itself.
            },
        }
    }

    /// Closes what is left.
    pub(super) fn stop(&mut self) {
        let slots = self.slots();
        self.ended.extend(slots);
    }
}

impl Shard {
    fn closing_event(&self, slot: u32, spread: Duration, reader: &Reader) -> Bytes {
        let retry = DurationRange { min: SHORTEST_RETRY, max: spread.max(SHORTEST_RETRY) }.pick();
        let event = sse::encode_close(retry, &self.hub.cursor_at(reader.cursor));
        match self.hub.kind(self.clients[slot as usize].group) {
            Kind::Stream(_, Coding::Gzip) => gzip::store(&event),
            Kind::Stream(_, Coding::Identity) | Kind::Poll => event,
        }
    }
}
