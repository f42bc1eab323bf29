//! What is done at certain times: pings, ends of lifetimes, answers of polls without events, and each second the sweep of the
//! histories. It does not decide when it is called.

use std::time::Duration;

use super::{
    core::Flushed,
    frames::Ping,
    state::{ClientState, OtherState},
};
use crate::{clock::Uptime, sse};

/// A client with unwritten bytes that takes nothing for this time is closed. It can resume. The same as nginx's `send_timeout`.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// What to do with a client at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Nothing,
    Ping,
    PingAhead,
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
            OtherState::CatchingUp(_) if state.is_ahead() => {
                if silent {
                    Action::PingAhead
                } else {
                    Action::Nothing
                }
            }
            OtherState::CatchingUp(_) | OtherState::Closing(_) if stalled => Action::EndStalled,
            OtherState::Waiting(_) | OtherState::CatchingUp(_) | OtherState::Closing(_) => Action::Nothing,
        },
    }
}

impl Flushed<'_> {
    /// Moves the timer wheel on by one tick, and does what clients need now.
    pub(super) fn tick(&mut self) {
        let (ping_after, patience) = (self.clients.ping_after(), self.clients.ticks(STALL_LIMIT));
        let ping = Ping::new(sse::encode_ping(&self.hub.cursor()));
        for key in self.clients.advance() {
            let (slot, now) = (key.slot, self.clients.now());
            let Some(client) = self.clients.with_key(key) else { continue };
            let silent = client.silent_for(now);
            match action(client.state(), client.has_expired(now), silent >= ping_after, silent >= patience) {
                Action::Nothing => {}
                Action::Ping => self.ping(slot, &ping),
                Action::PingAhead => self.ping_ahead(slot),
                Action::AnswerEmpty => self.answer_poll(slot, true),
                end @ (Action::End | Action::EndStalled) => {
                    if end == Action::EndStalled {
                        self.counts.stalled();
                    }
                    self.clients.end(slot);
                    continue;
                }
            }
            self.clients.look_again(key);
        }
    }

    /// Called every second: drops events and channels that nothing needs, and logs what was counted.
    pub(super) fn every_second(&mut self) {
        self.hub.trim(Uptime::now()); // A flush trims what was published; this trims what came with a snapshot.
        let released = self.hub.sweep(Uptime::now());
        for name in released {
            self.unsubscribe(&name);
        }
        self.counts.log(STALL_LIMIT);
    }
}
