//! Channels that are kept always (`keep = "always"`): the sources are asked for all channels of such a rule at once, by its pattern
//! or name, from the start on. So these channels have events before their first client. It decides nothing about which channels
//! these are.
//!
//! Invariant: a channel of a kept rule is complete since the rule was confirmed, whether it is in the hub or not, except for its
//! own losses.

use super::{ChannelId, GroupId, Hole, Hub, Subscription};
use crate::{config::RuleId, cursor::Position, name::ChannelName};

/// A rule whose channels are kept always.
#[derive(Debug)]
pub(super) struct KeptRule {
    pub(super) rule: RuleId,
    /// What the sources are asked for: the rule's pattern or name.
    pub(super) subject: ChannelName,
    pub(super) state: KeptState,
}

/// Whether the events of a rule's channels reach the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeptState {
    /// Not all sources have answered.
    Pending,
    /// They reach the hub since this position.
    Confirmed(Position),
    /// No source may deliver them.
    Refused,
}

impl Hub {
    /// The rule whose subscription delivers the channel or pattern; `None` where no source must be asked for channels.
    pub(super) fn kept_by(&self, name: &ChannelName) -> Option<RuleId> {
        if self.kept.is_empty() { None } else { self.rules.delivering(name) }
    }

    /// Whether the rule keeps all that the channel or pattern has. If it only delivers that, earlier rules have some channels of
    /// the pattern, whose past is not kept.
    pub(super) fn is_kept_whole(&self, name: &ChannelName) -> bool {
        !name.is_pattern() || self.rules.keeping(name).is_some()
    }

    pub(super) fn kept_state(&self, rule: RuleId) -> KeptState {
        self.kept.iter().find(|kept| kept.rule == rule).map_or(KeptState::Pending, |kept| kept.state)
    }

    /// Whether no source may deliver the channel, which a rule keeps always.
    #[must_use]
    pub fn is_refused(&self, id: ChannelId) -> bool {
        self.channels[id as usize].kept_by.is_some_and(|rule| self.kept_state(rule) == KeptState::Refused)
    }

    /// The channels that `name` stands for in what the dispatcher delivers: all channels of the rule that it belongs to, if the
    /// rule keeps them always; else the channel of that name.
    #[must_use]
    pub fn channels_under(&self, name: &ChannelName) -> Vec<ChannelId> {
        let Some(kept) = self.kept.iter().find(|kept| kept.subject == *name) else {
            return self.id(name).into_iter().collect();
        };
        let of_rule = |&(_, channel): &(usize, &super::Channel)| channel.kept_by == Some(kept.rule);
        self.channels.iter().filter(of_rule).map(|(id, _)| crate::index::to_u32(id)).collect()
    }

    /// The sources deliver a rule's channels since `since`. False if `name` belongs to no rule that keeps its channels always.
    pub(super) fn confirm_kept(&mut self, name: &ChannelName, since: Position) -> bool {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.subject == *name) else { return false };
        kept.state = KeptState::Confirmed(since);
        for id in self.channels_under(name) {
            let channel = &mut self.channels[id as usize];
            // One that is confirmed came with a snapshot, and is complete since long before.
            if channel.subscription == Subscription::Pending {
                channel.subscription = Subscription::Confirmed;
                channel.history.raise(since, super::Cause::Began);
            }
        }
        true
    }

    /// No source may deliver the rule's channels.
    pub(super) fn refuse_kept(&mut self, name: &ChannelName) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.subject == *name) {
            kept.state = KeptState::Refused;
        }
    }

    /// A source of a rule's channels was disconnected. Adds the groups that are to get a gap event to `groups`. False if `name`
    /// belongs to no rule that keeps its channels always.
    pub(super) fn restore_kept(&mut self, name: &ChannelName, hole: Hole, groups: &mut Vec<GroupId>) -> bool {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.subject == *name) else { return false };
        if let KeptState::Confirmed(since) = &mut kept.state {
            // What is not in the hub has no events from before the hole.
            *since = hole.end.max(*since);
        }
        for id in self.channels_under(name) {
            self.add_hole(id, hole, groups);
        }
        true
    }

    /// For a snapshot: the rules whose channels the sources deliver, by their patterns or names, and since which position.
    pub fn export_kept(&self) -> impl Iterator<Item = (&ChannelName, Position)> {
        self.kept.iter().filter_map(|kept| match kept.state {
            KeptState::Confirmed(since) => Some((&kept.subject, since)),
            KeptState::Pending | KeptState::Refused => None,
        })
    }

    /// The predecessor's sources delivered a rule's channels since `since`. To be called before channels are imported.
    pub fn import_kept(&mut self, name: &ChannelName, since: Position) {
        self.confirm_kept(name, since);
    }
}
