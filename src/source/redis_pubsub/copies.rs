//! Which copy of a message is taken. Redis sends a message once for its channel, if that is subscribed to, and once more for each
//! subscribed pattern that matches it. A pure state machine: it reads no socket.
//!
//! Redis sends the confirmations and the messages of a connection in one order. So when a message comes, it is certain which
//! copies of it come: those of the patterns that were confirmed before it and not unsubscribed since, and the channel's own.
//!
//! Invariant: of all copies of a message exactly one is taken: that of the pattern that was confirmed first among those that match
//! the name; where none does, the channel's own.

use crate::{name::ChannelName, pattern::PatternIndex};

/// The patterns of one connection.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Each pattern with the number of its confirmation.
    patterns: PatternIndex<u64>,
    confirmed: u64,
}

impl Copies {
    /// Redis has confirmed a pattern.
    pub(super) fn subscribed(&mut self, pattern: &ChannelName) {
        // Confirmed again while it is subscribed, it keeps its place: Redis has it once.
        let known = self.patterns.get(pattern).copied();
        self.confirmed += 1;
        self.patterns.insert(pattern.clone(), known.unwrap_or(self.confirmed));
    }

    /// Redis has confirmed that a pattern is unsubscribed.
    pub(super) fn unsubscribed(&mut self, pattern: &ChannelName) {
        self.patterns.remove(pattern);
    }

    /// Whether the copy of a message on channel `name` is taken that came for `pattern`, or (`None`) for the channel itself.
    pub(super) fn is_taken(&self, name: &ChannelName, pattern: Option<&str>) -> bool {
        let first = self.patterns.matching(name).min_by_key(|&(_, number)| number);
        // No pattern matches a reserved name here, though one may in Redis.
        first.map(|(first, _)| first.as_str()) == pattern
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::pattern;

    const NAMES: [&str; 5] = ["a", "ab", "abc", "b", "__a"];
    const PATTERNS: [&str; 5] = ["*", "a*", "ab*", "*b*", "x*"];

    #[derive(Debug, Clone)]
    enum Step {
        Subscribe(usize),
        Unsubscribe(usize),
        SubscribeToPattern(usize),
        UnsubscribeFromPattern(usize),
        Publish(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => (0..NAMES.len()).prop_map(Step::Subscribe),
            1 => (0..NAMES.len()).prop_map(Step::Unsubscribe),
            1 => (0..PATTERNS.len()).prop_map(Step::SubscribeToPattern),
            1 => (0..PATTERNS.len()).prop_map(Step::UnsubscribeFromPattern),
            4 => (0..NAMES.len()).prop_map(Step::Publish),
        ];
        prop::collection::vec(step, 0..80)
    }

    fn subscribable(name: &str) -> ChannelName {
        ChannelName::subscribable(name).unwrap()
    }

    proptest! {
        /// The model is Redis: it sends a copy for the channel, and one for each pattern, in any order.
        #[test]
        fn each_message_is_taken_once_however_subscriptions_change(steps in steps(), seed in any::<u64>()) {
            let (mut names, mut patterns) = (BTreeSet::new(), BTreeSet::new());
            let mut copies = Copies::default();
            let mut random = fastrand::Rng::with_seed(seed);
            for step in steps {
                match step {
                    Step::Subscribe(name) => drop(names.insert(NAMES[name])),
                    Step::Unsubscribe(name) => drop(names.remove(NAMES[name])),
                    Step::SubscribeToPattern(pattern) => {
                        patterns.insert(PATTERNS[pattern]);
                        copies.subscribed(&subscribable(PATTERNS[pattern]));
                    }
                    Step::UnsubscribeFromPattern(pattern) => {
                        patterns.remove(PATTERNS[pattern]);
                        copies.unsubscribed(&subscribable(PATTERNS[pattern]));
                    }
                    Step::Publish(name) => {
                        let name = NAMES[name];
                        let matching = patterns.iter().filter(|pattern| pattern::matches(pattern, name)).copied();
                        let mut sent: Vec<Option<&str>> = matching.map(Some).collect();
                        random.shuffle(&mut sent);
                        sent.splice(0..0, names.contains(name).then_some(None));
                        let name = ChannelName::new(name).unwrap();
                        let taken = sent.iter().filter(|pattern| copies.is_taken(&name, **pattern)).count();
                        // A pattern delivers no reserved names.
                        let delivered = names.contains(name.as_str()) || !sent.is_empty() && !name.is_reserved();
                        prop_assert_eq!(taken, usize::from(delivered), "{:?} of {}", sent, name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_channel_that_a_confirmed_pattern_matches_takes_the_patterns_copy_only() {
        let (a, pattern) = (ChannelName::new("a").unwrap(), subscribable("a*"));
        let mut copies = Copies::default();
        assert!(copies.is_taken(&a, None));
        copies.subscribed(&pattern);
        copies.subscribed(&subscribable("*"));
        assert!(!copies.is_taken(&a, None) && copies.is_taken(&a, Some("a*")) && !copies.is_taken(&a, Some("*")));
        copies.unsubscribed(&pattern);
        assert!(!copies.is_taken(&a, None) && copies.is_taken(&a, Some("*")));
        copies.unsubscribed(&subscribable("*"));
        assert!(copies.is_taken(&a, None));
    }

    #[test]
    fn a_reserved_channel_takes_its_own_copy_only() {
        let marker = ChannelName::new("ssecast:handover:1").unwrap();
        let mut copies = Copies::default();
        copies.subscribed(&subscribable("*"));
        assert!(copies.is_taken(&marker, None) && !copies.is_taken(&marker, Some("*")));
    }
}
