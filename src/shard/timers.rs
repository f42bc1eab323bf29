//! What is done at certain times: pings, ends of lifetimes, answers of polls without events, and each second the sweep of the
//! histories. It does not decide when it is called.

use std::time::Duration;

use super::{
    client::{ClientState, OtherState},
    core::Flushed,
    frames::Ping,
};
use crate::{clock::Uptime, hub::Reader, sse};

/// A client with unwritten bytes that takes nothing for this time is closed. It can resume. The same as nginx's `send_timeout`.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What to do with a client at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    Ping,
    AnswerEmpty,
    End,
    EndStalled,
}

/// What to do with a client in `state`. `expired`: its lifetime is over. `silent`: nothing was written to it for the ping interval.
/// `stalled`: nothing was written to it for [`STALL_LIMIT`].
fn action(state: &ClientState, expired: bool, silent: bool, stalled: bool) -> Action {
    match state {
        ClientState::Live if expired => Action::End,
        ClientState::Live if silent => Action::Ping,
        ClientState::Live => Action::Nothing,
        ClientState::Other(other) => match **other {
            OtherState::Waiting(_) if expired => Action::AnswerEmpty,
            OtherState::CatchingUp(_) if expired => Action::End,
            OtherState::CatchingUp(_) | OtherState::Closing(_) if stalled => Action::EndStalled,
            OtherState::Waiting(_) | OtherState::CatchingUp(_) | OtherState::Closing(_) => Action::Nothing,
        },
    }
}

impl Flushed<'_> {
    /// Moves the timer wheel on by one tick, and does what clients need now.
    pub(super) fn tick(&mut self) {
        let interval = self.wheel.ticks(self.config.stream.ping_interval);
        let patience = self.wheel.ticks(STALL_LIMIT);
        let ping = Ping::new(sse::encode_ping(&self.hub.cursor_at(self.hub.last())));
        for key in self.wheel.advance() {
            let (slot, now) = (key.slot, self.wheel.now());
            let Some(client) = self.clients.get(slot as usize) else { continue };
            if client.generation != key.generation {
                continue;
            }
            let expired = client.expires.is_some_and(|expires| expires.has_come(now));
            let since = now.since(client.written);
            match action(&client.state, expired, since >= interval, since >= patience) {
                Action::Nothing => {}
                Action::Ping => self.ping(slot, &ping),
                Action::AnswerEmpty => {
                    let reader = Reader::live(self.hub.last());
                    self.answer_poll(slot, &reader, true);
                }
                end @ (Action::End | Action::EndStalled) => {
                    if end == Action::EndStalled {
                        self.unlogged.count_stalled();
                    }
                    self.ended.push(slot);
                    continue;
                }
            }
            let client = &self.clients[slot as usize];
            let since = if client.state.is_live() { client.written } else { now };
            let due = since.after(interval);
            let due = client.expires.map_or(due, |expires| due.earlier(expires));
            self.wheel.put(key, due);
        }
    }

    /// Called every second: drops events and channels that nothing needs, and logs what was counted.
    pub(super) fn every_second(&mut self) {
        self.hub.trim(Uptime::now()); // A flush trims what was published; this trims what came with a snapshot.
        let released = self.hub.sweep(Uptime::now());
        for name in released {
            self.dispatcher.release(self.number, &name);
        }
        let (stalled, gaps) = self.unlogged.take();
        if stalled > 0 {
            tracing::info!(
                clients = stalled,
                "clients were closed: they took no data for {STALL_LIMIT:?}; they resume when they reconnect"
            );
        }
        if gaps > 0 {
            tracing::warn!(gaps, "gap events were sent: clients may have missed events; each gap event says why");
        }
    }
}
