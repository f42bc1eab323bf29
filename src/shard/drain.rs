//! Clients are sent away when the daemon stops: each gets what it is in the middle of, and a time to come back at.

use std::{os::fd::AsRawFd, time::Duration};

use nix::sys::socket::{MsgFlags, send};
use tokio::sync::oneshot;

use super::Shard;
use crate::{config::DurationRange, sse};

/// Shortest time after which a client that is closed is to reconnect: until then the next process serves.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);

impl Shard {
    /// Sends all clients away; `gone` is dropped when they are.
    pub(super) fn drain(&mut self, spread: Duration, gone: oneshot::Sender<()>) {
        self.draining = Some((spread, gone));
        let slots: Vec<u32> = self.clients.iter().filter_map(|(slot, _)| u32::try_from(slot).ok()).collect();
        for slot in slots {
            self.close_with_retry(slot, spread);
        }
        self.remove_ended();
    }

    /// Ends a client once it has what it is due, telling it when to come back.
    pub(super) fn close_with_retry(&mut self, slot: u32, spread: Duration) {
        let Some(client) = self.clients.get_mut(slot as usize) else { return };
        if client.poll.is_some() {
            return self.answer_empty(slot);
        }
        let range = DurationRange { min: SHORTEST_RETRY, max: spread.max(SHORTEST_RETRY) };
        let has = client.behind.as_ref().map_or(self.hub.last(), |behind| behind.reader.cursor);
        let retry = sse::encode_close(range.pick(), &self.hub.cursor_at(has));
        let last = match &mut client.gzip {
            Some(gzip) => gzip.end(&retry),
            None => retry,
        };
        match &mut client.behind {
            // A poll's answer is under way, and ends by itself.
            Some(behind) if behind.ends => {}
            Some(behind) => {
                // The rest of a frame goes out first; the histories serve the client when it is back.
                behind.partial = [&behind.partial[..], &last].concat().into();
                behind.ends = true;
                self.serve(slot);
            }
            None => {
                // What the socket doesn't take of so little, the client can do without.
                let _ = send(client.fd.as_raw_fd(), &last, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
                self.ended.push(slot);
            }
        }
    }

    /// Ends a client now. A gzip stream that is not in the middle of something is ended as its format wants it.
    pub(super) fn end(&mut self, slot: u32) {
        let client = &mut self.clients[slot as usize];
        if let (None, Some(gzip)) = (&client.behind, &mut client.gzip) {
            // If the socket doesn't take it, the stream breaks off, as it may at any time.
            let _ = send(client.fd.as_raw_fd(), &gzip.end(&[]), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
        self.ended.push(slot);
    }

    /// Closes what is left.
    pub(super) fn stop(&mut self) {
        self.ended.extend(self.clients.iter().filter_map(|(slot, _)| u32::try_from(slot).ok()));
        self.remove_ended();
    }
}
