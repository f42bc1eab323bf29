//! Which client subscribes to which channels, and which channel each event goes to.

use std::str::FromStr;

use crate::name::{ChannelError, ChannelName};

/// `general,base+extras+cats+dogs`: each client has every part of the comma list; of a part with `+`, clients take the
/// channels by turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPlan {
    channels: Vec<PlannedChannel>,
}

/// One channel of a [`ChannelPlan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedChannel {
    /// Its name.
    pub name: ChannelName,
    turn: usize,
    turns: usize,
}

impl PlannedChannel {
    /// Whether client number `client` subscribes to it.
    #[must_use]
    pub fn has(&self, client: usize) -> bool {
        self.turns == 1 || client % self.turns == self.turn
    }
}

impl ChannelPlan {
    /// All channels, in the order in which events go to them.
    #[must_use]
    pub fn channels(&self) -> &[PlannedChannel] {
        &self.channels
    }

    /// The names that client number `client` subscribes to.
    pub fn of_client(&self, client: usize) -> impl Iterator<Item = &ChannelName> {
        self.channels.iter().filter(move |channel| channel.has(client)).map(|channel| &channel.name)
    }
}

impl FromStr for ChannelPlan {
    type Err = ChannelError;

    fn from_str(text: &str) -> Result<Self, ChannelError> {
        let mut channels = Vec::new();
        for part in text.split(',') {
            let turns = part.split('+').count();
            for (turn, name) in part.split('+').enumerate() {
                channels.push(PlannedChannel { name: ChannelName::new(name)?, turn, turns });
            }
        }
        Ok(Self { channels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_alternatives_by_turns() {
        let plan: ChannelPlan = "general,base+cats+dogs".parse().unwrap();
        let of_client = |client| plan.of_client(client).map(ChannelName::as_str).collect::<Vec<_>>();
        assert_eq!(of_client(0), ["general", "base"]);
        assert_eq!(of_client(4), ["general", "cats"]);
        assert_eq!(of_client(5), ["general", "dogs"]);
        assert_eq!(plan.channels().len(), 4);
        assert_eq!("a,,b".parse::<ChannelPlan>(), Err(ChannelError::Empty));
    }
}
