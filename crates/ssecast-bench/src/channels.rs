//! Decides which client subscribes to which channels, and to which channel each event goes. Does not check names: the server does.

use std::{fmt, str::FromStr};

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
    pub name: String,
    turn: usize,
    turns: usize,
}

/// A [`ChannelPlan`] has an empty channel name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmptyName;

impl fmt::Display for EmptyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a channel name is empty")
    }
}

impl std::error::Error for EmptyName {}

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
    pub fn of_client(&self, client: usize) -> impl Iterator<Item = &str> {
        self.channels.iter().filter(move |channel| channel.has(client)).map(|channel| channel.name.as_str())
    }
}

impl FromStr for ChannelPlan {
    type Err = EmptyName;

    fn from_str(text: &str) -> Result<Self, EmptyName> {
        let mut channels = Vec::new();
        for part in text.split(',') {
            let turns = part.split('+').count();
            for (turn, name) in part.split('+').enumerate() {
                if name.is_empty() {
                    return Err(EmptyName);
                }
                channels.push(PlannedChannel { name: name.to_owned(), turn, turns });
            }
        }
        Ok(Self { channels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_alternatives_in_turn() {
        let plan: ChannelPlan = "general,base+cats+dogs".parse().unwrap();
        let of_client = |client| plan.of_client(client).collect::<Vec<_>>();
        assert_eq!(of_client(0), ["general", "base"]);
        assert_eq!(of_client(4), ["general", "cats"]);
        assert_eq!(of_client(5), ["general", "dogs"]);
        assert_eq!(plan.channels().len(), 4);
        assert_eq!("a,,b".parse::<ChannelPlan>(), Err(EmptyName));
    }
}
