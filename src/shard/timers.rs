//! What happens by itself: pings, ends of streams, empty answers of polls, and each second the sweep of the histories.

use std::{mem, time::Duration};

use super::{
    client::{ClientState, OtherState},
    core::Flushed,
    frames::Ping,
};
use crate::{clock::Uptime, hub::Reader, sse};

/// A client that is not live and takes nothing for so long is closed (nginx's `send_timeout` is as long); it can resume.
const TO_TAKE: Duration = Duration::from_secs(60);

/// What a client is due at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    Ping,
    AnswerEmpty,
    End,
    EndStalled,
}

/// What a client in `state` is due. `expired`: its time is over. `silent`, `stalled`: nothing was written to it for the ping
/// interval, for [`TO_TAKE`].
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
    /// One tick of the wheel.
    pub(super) fn tick(&mut self) {
        let interval = self.wheel.ticks(self.config.stream.ping_interval);
        let patience = self.wheel.ticks(TO_TAKE);
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
                    self.stalled += u64::from(end == Action::EndStalled);
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

    /// Every second: drops what nobody needs, and logs what was counted.
    pub(super) fn every_second(&mut self) {
        self.hub.trim(Uptime::now()); // Of what came otherwise than by a publish: from another process.
        let released = self.hub.sweep(Uptime::now());
        for name in released {
            self.dispatcher.release(self.number, &name);
        }
        let stalled = mem::take(&mut self.stalled);
        if stalled > 0 {
            tracing::info!(
                clients = stalled,
                "closed: they took nothing for {TO_TAKE:?}; they resume when they come back"
            );
        }
        let gaps = mem::take(&mut self.unlogged_gaps);
        if gaps > 0 {
            tracing::warn!(gaps, "clients were told that they may have missed events; each gap event says why");
        }
    }
}
