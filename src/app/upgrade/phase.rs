//! The phases of an upgrade, and the message that leads from each to the next: a pure state machine, used by both processes.
//! It sends nothing and waits for nothing.

use std::{fmt, time::Duration};

use crate::process::control_channel::Message;

/// Which of the two processes sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::app) enum Side {
    /// The process that serves.
    Predecessor,
    /// The process that will take over.
    Successor,
}

/// The phase of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::app) enum Phase {
    /// The successor starts and reads its configuration.
    Starting,
    /// The successor has sent its version. The predecessor prepares the sockets, the channels' names and the marker.
    Introduced,
    /// The successor connects its sources and subscribes.
    Subscribing,
    /// The predecessor stops accepting and waits until requests under way have ended.
    Pausing,
    /// The successor subscribes to the channels that clients have opened since its first subscription.
    CatchingUp,
    /// The predecessor stops its shards and takes the snapshot.
    Capturing,
    /// The predecessor sends the snapshot's descriptors. The successor makes its shards.
    Sending {
        /// Number of descriptors that have not been sent yet.
        left: usize,
    },
    /// The successor has everything, and does not use it yet.
    Held,
    /// The predecessor waits for the receipt (`Serving`).
    Committing,
    /// The successor serves.
    Done,
}

/// A message that does not belong to the phase.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {} sent {message} while {phase}, which was not expected", match side { Side::Predecessor => "predecessor", Side::Successor => "new process" })]
pub(in crate::app) struct OutOfTurn {
    side: Side,
    message: String,
    phase: Phase,
}

impl Phase {
    /// The phase after `side` has sent `message`, with `fds` descriptors.
    ///
    /// # Errors
    /// The message does not belong to this phase.
    pub(in crate::app) fn after(self, side: Side, message: &Message, fds: usize) -> Result<Self, OutOfTurn> {
        use Side::{Predecessor, Successor};
        Ok(match (self, side, message) {
            (Self::Starting, Successor, Message::Hello { .. }) => Self::Introduced,
            (Self::Introduced, Predecessor, Message::Subscribe { .. }) => Self::Subscribing,
            (Self::Subscribing, Successor, Message::Ready) => Self::Pausing,
            (Self::Pausing, Predecessor, Message::Subscribe { .. }) => Self::CatchingUp,
            (Self::CatchingUp, Successor, Message::Ready) => Self::Capturing,
            (Self::Capturing, Predecessor, Message::State { descriptors }) => Self::Sending { left: *descriptors },
            (Self::Sending { left }, Predecessor, Message::Descriptors) if fds > 0 && fds <= left => {
                Self::Sending { left: left - fds }
            }
            (Self::Sending { left: 0 }, Successor, Message::Holding) => Self::Held,
            (Self::Held, Predecessor, Message::Go) => Self::Committing,
            (Self::Committing, Successor, Message::Serving) => Self::Done,
            _ => {
                let text = format!("{message:?}");
                let name = text.split([' ', '{']).next().unwrap_or_default().to_owned();
                return Err(OutOfTurn { side, message: name, phase: self });
            }
        })
    }

    /// Longest time that the predecessor stays in the phase. Clients wait from `Pausing` to `Committing`; these phases together
    /// have a limit of their own.
    pub(in crate::app) const fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Starting => 15,
            // Longer than the successor's own limit, so that the successor can report what it waited for.
            Self::Subscribing => 30,
            Self::Sending { .. } => 10,
            _ => 5,
        })
    }

    /// What the successor has not done if it ends in this phase. It completes `the new process ended before it …`.
    pub(in crate::app) const fn expectation(self) -> &'static str {
        match self {
            Self::Starting => "had read its configuration",
            Self::Introduced | Self::Subscribing => "was ready",
            Self::Pausing | Self::CatchingUp => "had subscribed to the last channels",
            Self::Capturing | Self::Sending { .. } => "had taken everything",
            Self::Held | Self::Committing | Self::Done => "served",
        }
    }
}

impl Phase {
    /// The phase's name, as logs and `/readyz` show it.
    pub(in crate::app) const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Introduced => "introduced",
            Self::Subscribing => "subscribing",
            Self::Pausing => "pausing",
            Self::CatchingUp => "catching up",
            Self::Capturing => "capturing",
            Self::Sending { .. } => "sending",
            Self::Held => "held",
            Self::Committing => "committing",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subscribe() -> Message {
        Message::Subscribe { version: 2, sockets: Vec::new(), marker: None, sources: false, supervised: false }
    }

    /// Each message of an upgrade with 300 descriptors, in order, and the phase after it.
    fn upgrade() -> Vec<(Side, Message, usize, Phase)> {
        use Side::{Predecessor, Successor};
        vec![
            (Successor, Message::Hello { version: 2 }, 0, Phase::Introduced),
            (Predecessor, subscribe(), 3, Phase::Subscribing),
            (Successor, Message::Ready, 0, Phase::Pausing),
            (Predecessor, subscribe(), 1, Phase::CatchingUp),
            (Successor, Message::Ready, 0, Phase::Capturing),
            (Predecessor, Message::State { descriptors: 300 }, 1, Phase::Sending { left: 300 }),
            (Predecessor, Message::Descriptors, 250, Phase::Sending { left: 50 }),
            (Predecessor, Message::Descriptors, 50, Phase::Sending { left: 0 }),
            (Successor, Message::Holding, 0, Phase::Held),
            (Predecessor, Message::Go, 0, Phase::Committing),
            (Successor, Message::Serving, 0, Phase::Done),
        ]
    }

    #[test]
    fn an_upgrade_goes_through_all_phases_in_order() {
        let mut phase = Phase::Starting;
        for (side, message, fds, next) in upgrade() {
            phase = phase.after(side, &message, fds).unwrap();
            assert_eq!(phase, next, "after {message:?}");
        }
    }

    #[test]
    fn each_phase_takes_one_message_of_one_side_and_no_other() {
        let upgrade = upgrade();
        let mut phase = Phase::Starting;
        for (_, expected, fds, next) in &upgrade {
            for (side, message, _, _) in &upgrade {
                for side in [*side, Side::Predecessor, Side::Successor] {
                    let turn = phase.after(side, message, *fds);
                    let belongs = upgrade.iter().any(|(s, m, f, n)| (s, m, f, n) == (&side, message, fds, next));
                    if message != expected || !belongs {
                        assert!(turn.is_err(), "{message:?} of {side:?} while {phase}: {turn:?}");
                    }
                }
            }
            phase = *next;
        }
    }

    #[test]
    fn descriptors_that_were_not_announced_are_refused() {
        let sending = Phase::Sending { left: 2 };
        assert!(sending.after(Side::Predecessor, &Message::Descriptors, 3).is_err(), "too many");
        assert!(sending.after(Side::Predecessor, &Message::Descriptors, 0).is_err(), "none");
        let error = sending.after(Side::Successor, &Message::Holding, 0).unwrap_err();
        assert_eq!(error.to_string(), "the new process sent Holding while sending, which was not expected");
    }

    proptest! {
        /// Whatever the processes send, an upgrade is done only after all its messages in their order.
        #[test]
        fn nothing_but_the_whole_upgrade_leads_to_the_end(picks in proptest::collection::vec(0..11_usize, 0..40)) {
            let upgrade = upgrade();
            let (mut phase, mut reached) = (Phase::Starting, 0);
            for pick in picks {
                let (side, message, fds, _) = &upgrade[pick];
                let Ok(next) = phase.after(*side, message, *fds) else { continue };
                phase = next;
                reached += 1;
            }
            prop_assert!(phase != Phase::Done || reached >= 10);
        }
    }
}
