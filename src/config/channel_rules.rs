//! What holds for one channel or pattern, by the `[[channel]]` tables and `[history]`. It reads no file, and knows no events.
//!
//! A channel's rule is found when the channel is opened, not at each event.

use std::{sync::Arc, time::Duration};

use super::tables::{Channel, Config, History, Keep};
use crate::{name::ChannelName, pattern};

/// The number of a rule: the place of its table, or one past the last for the channels that no table matches.
pub type RuleId = usize;

/// What holds for the channels of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Most events kept of each channel.
    pub messages: usize,
    /// Most events kept of a pattern, all its channels together.
    pub pattern_messages: usize,
    /// How long an event is kept.
    pub age: Duration,
    /// The channels, as a pattern or a name; `None` for all that no table matches.
    name: Option<ChannelName>,
    keep: Keep,
    patterns: bool,
}

/// The rules of all channels. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRules(Arc<[Rule]>);

impl Config {
    /// The rules of all channels.
    #[must_use]
    pub(crate) fn channel_rules(&self) -> ChannelRules {
        ChannelRules::new(&self.history, &self.channels)
    }
}

impl ChannelRules {
    /// The rules of these tables.
    #[must_use]
    pub fn new(history: &History, tables: &[Channel]) -> Self {
        let of_table = |table: &Channel| Rule {
            messages: table.messages.unwrap_or(history.messages),
            pattern_messages: table.pattern_messages,
            age: table.age.unwrap_or(history.age),
            name: Some(table.r#match.clone()),
            keep: table.keep,
            patterns: table.patterns,
        };
        let rest = Rule { name: None, ..of_table(&Channel::default()) };
        let rest = Rule { messages: history.messages, age: history.age, ..rest };
        Self(tables.iter().map(of_table).chain([rest]).collect())
    }

    /// The rule of a channel: the first one that matches its name. For a pattern, the first one that matches all of its names.
    #[must_use]
    pub fn of(&self, name: &ChannelName) -> RuleId {
        self.0.iter().position(|rule| rule.covers(name)).unwrap_or(self.0.len() - 1)
    }

    /// A rule.
    #[must_use]
    pub fn get(&self, id: RuleId) -> &Rule {
        &self.0[id]
    }

    /// The rules that keep their channels always, each with the name or the pattern of its channels.
    pub fn kept(&self) -> impl Iterator<Item = (RuleId, &ChannelName)> {
        let always = self.0.iter().enumerate().filter(|(_, rule)| rule.keep == Keep::Always);
        always.filter_map(|(id, rule)| Some((id, rule.name.as_ref()?)))
    }

    /// The rule that keeps a channel always, if there is one. For a pattern: the rule that keeps all of its channels.
    #[must_use]
    pub fn keeping(&self, name: &ChannelName) -> Option<RuleId> {
        // Where a rule matches some channels of a pattern, other rules match the rest.
        let is_first = |rule: &Rule| rule.covers(name) || name.is_pattern() && rule.overlaps(name);
        let id = self.0.iter().position(is_first)?;
        (self.0[id].covers(name) && self.0[id].keep == Keep::Always).then_some(id)
    }

    /// The rule whose subscription delivers a channel or pattern: [`ChannelRules::keeping`], or for a pattern the rule that keeps
    /// channels by this very pattern, though earlier rules have some of them. A source is asked for a pattern once.
    #[must_use]
    pub fn delivering(&self, name: &ChannelName) -> Option<RuleId> {
        self.keeping(name).or_else(|| self.kept().find(|(_, subject)| *subject == name).map(|(id, _)| id))
    }

    /// Whether clients may read by the pattern: each channel that it matches has a rule that says so.
    #[must_use]
    pub fn allow_pattern(&self, pattern: &ChannelName) -> bool {
        for rule in &*self.0 {
            if rule.covers(pattern) {
                return rule.patterns;
            }
            if rule.overlaps(pattern) && !rule.patterns {
                return false;
            }
        }
        false
    }
}

impl Rule {
    /// Whether it matches the name, or all names of the pattern.
    fn covers(&self, name: &ChannelName) -> bool {
        self.name.as_ref().is_none_or(|own| pattern::matches(own.as_str(), name.as_str()))
    }

    /// Whether it matches some names of the pattern.
    fn overlaps(&self, name: &ChannelName) -> bool {
        self.name.as_ref().is_none_or(|own| pattern::overlap(own.as_str(), name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ChannelName {
        ChannelName::subscribable(name).unwrap()
    }

    fn table(pattern: &str, keep: Keep, patterns: bool) -> Channel {
        Channel { r#match: name(pattern), keep, patterns, messages: Some(pattern.len()), ..Channel::default() }
    }

    #[test]
    fn the_first_rule_that_matches_a_name_counts() {
        let tables = [table("news.secret", Keep::OnDemand, false), table("news.*", Keep::Always, true)];
        let rules = ChannelRules::new(&History::default(), &tables);
        let messages = |channel: &str| rules.get(rules.of(&name(channel))).messages;
        assert_eq!([messages("news.secret"), messages("news.x"), messages("cats")], [11, 6, 100]);
        assert_eq!(rules.get(rules.of(&name("news.x"))).age, History::default().age);
        assert_eq!(rules.keeping(&name("news.x")), Some(1));
        assert_eq!(rules.keeping(&name("news.secret")), None);
        assert_eq!(rules.keeping(&name("cats")), None);
        assert_eq!(rules.kept().map(|(id, name)| (id, name.as_str())).collect::<Vec<_>>(), [(1, "news.*")]);
    }

    #[test]
    fn a_pattern_is_kept_always_if_all_its_channels_are_by_one_rule() {
        let tables = [table("news.secret", Keep::OnDemand, false), table("news.*", Keep::Always, true)];
        let rules = ChannelRules::new(&History::default(), &tables);
        assert_eq!(rules.keeping(&name("news.x*")), Some(1));
        assert_eq!(rules.keeping(&name("news.*")), None, "an earlier rule has some of its channels");
        assert_eq!(rules.keeping(&name("*")), None);
        assert_eq!(rules.delivering(&name("news.*")), Some(1), "the rule asks the sources for this pattern");
        assert_eq!(["*", "news.s*", "news.secret"].map(|other| rules.delivering(&name(other))), [None; 3]);
    }

    #[test]
    fn a_pattern_is_allowed_if_the_rule_of_each_of_its_channels_says_so() {
        let tables = [
            table("news.secret.*", Keep::OnDemand, false),
            table("news.de.*", Keep::OnDemand, true),
            table("news.*", Keep::OnDemand, true),
            table("cats", Keep::OnDemand, true),
        ];
        let rules = ChannelRules::new(&History::default(), &tables);
        for allowed in ["news.de.*", "news.d*", "news.t*t", "news.x.*"] {
            assert!(rules.allow_pattern(&name(allowed)), "{allowed}");
        }
        for refused in ["news.*", "*", "news.secret.*", "news.secret.x*", "news.se*", "cats*", "n*", "*s"] {
            assert!(!rules.allow_pattern(&name(refused)), "{refused}");
        }
        let closed = ChannelRules::new(&History::default(), &[]);
        assert!(!closed.allow_pattern(&name("*")), "closed by default");
    }
}
