//! Patterns: names of channels in which `*` stands for any characters, none included. It knows no channel.
//!
//! `*` is the only wildcard. It means the same in Redis (PSUBSCRIBE), for names of any bytes. Redis's other wildcards do not: there
//! `?` is one byte, which may be a part of a character. A pattern reads as a name with stars, so "does this pattern match all
//! names that the other one matches?" is the same question as "does it match the other one's text?".

use std::collections::{BTreeMap, HashMap};

use crate::name::ChannelName;

/// Whether `pattern` matches `name`. If `name` is a pattern itself: whether `pattern` matches every name that it matches.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*').filter(|part| !part.is_empty()) {
        // The first place is the best one: it leaves most for the parts that follow.
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.len() >= last.len() && left.ends_with(last)
}

/// Whether there may be a name that both patterns match. A name without a star counts as a pattern that matches itself.
#[must_use]
pub fn overlap(one: &str, other: &str) -> bool {
    let (Some((begin, _)), Some((other_begin, _))) = (one.split_once('*'), other.split_once('*')) else {
        return matches(one, other) || matches(other, one);
    };
    let end = |pattern: &'_ str| pattern.rfind('*').map_or(0, |star| star + 1);
    let (end, other_end) = (&one[end(one)..], &other[end(other)..]);
    // What stands between the first star and the last one of each can follow each other in one name.
    (begin.starts_with(other_begin) || other_begin.starts_with(begin))
        && (end.ends_with(other_end) || other_end.ends_with(end))
}

/// Finds the patterns that match a name, without a look at all of them: they are sorted by what stands before their first star.
#[derive(Debug)]
pub struct PatternIndex<T> {
    by_beginning: HashMap<Box<str>, Vec<(ChannelName, T)>>,
    /// For each length of a beginning, how many there are of it.
    lengths: BTreeMap<usize, usize>,
}

impl<T> Default for PatternIndex<T> {
    fn default() -> Self {
        Self { by_beginning: HashMap::new(), lengths: BTreeMap::new() }
    }
}

impl<T> PatternIndex<T> {
    /// Adds a pattern, or replaces its value.
    pub fn insert(&mut self, pattern: ChannelName, value: T) {
        let beginning = beginning(&pattern);
        if !self.by_beginning.contains_key(beginning) {
            *self.lengths.entry(beginning.len()).or_default() += 1;
            self.by_beginning.insert(beginning.into(), Vec::new());
        }
        if let Some(patterns) = self.by_beginning.get_mut(beginning) {
            patterns.retain(|(known, _)| *known != pattern);
            patterns.push((pattern, value));
        }
    }

    /// Removes a pattern, if it is there.
    pub fn remove(&mut self, pattern: &ChannelName) {
        let beginning = beginning(pattern);
        let Some(patterns) = self.by_beginning.get_mut(beginning) else { return };
        patterns.retain(|(known, _)| known != pattern);
        if patterns.is_empty() {
            self.by_beginning.remove(beginning);
            if let Some(count) = self.lengths.get_mut(&beginning.len()) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&beginning.len());
                }
            }
        }
    }

    /// The value of a pattern.
    #[must_use]
    pub fn get(&self, pattern: &ChannelName) -> Option<&T> {
        let patterns = self.by_beginning.get(beginning(pattern))?;
        patterns.iter().find(|(known, _)| known == pattern).map(|(_, value)| value)
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_beginning.is_empty()
    }

    /// The patterns that match a name, in no particular order. A reserved name is matched by none.
    pub fn matching<'a>(&'a self, name: &'a ChannelName) -> impl Iterator<Item = (&'a ChannelName, &'a T)> {
        let name_text = name.as_str();
        let longest = if self.is_empty() || name.is_reserved() { None } else { Some(name_text.len()) };
        let lengths = longest.into_iter().flat_map(|longest| self.lengths.range(..=longest)).map(|(&length, _)| length);
        lengths
            .filter_map(move |length| self.by_beginning.get(name_text.get(..length)?))
            .flatten()
            .filter(move |(pattern, _)| matches(pattern.as_str(), name_text))
            .map(|(pattern, value)| (pattern, value))
    }
}

fn beginning(pattern: &ChannelName) -> &str {
    pattern.as_str().split('*').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: a star stands for each possible beginning of the rest of the name.
    fn matches_by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|at| matches_by_definition(rest, &name[at..])),
            Some((byte, rest)) => name.first() == Some(byte) && matches_by_definition(rest, &name[1..]),
        }
    }

    #[test]
    fn a_star_stands_for_any_characters_and_for_none() {
        for (pattern, name) in [("news.*", "news."), ("*", "größe"), ("*.de", "a.de"), ("a*b*c", "abc"), ("a**", "a")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("news.*", "news"), ("a*a", "a"), ("*ab*ab", "xab"), ("a", "ab"), ("a*b", "acbd")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn reserved_names_are_matched_by_no_pattern() {
        let mut index = PatternIndex::default();
        index.insert(ChannelName::subscribable("*").unwrap(), ());
        let matching = |name: &str| index.matching(&ChannelName::new(name).unwrap()).count();
        assert_eq!((matching("a"), matching("__keyevent@0__:set"), matching("ssecast:x")), (1, 0, 0));
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_the_definition_says(pattern in "[ab*]{0,8}", name in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &name), matches_by_definition(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn a_pattern_that_matches_anothers_text_matches_all_its_names(one in "[ab*]{1,5}", other in "[ab*]{1,5}") {
            // The letter x stands in neither pattern, so only a star of `one` matches where a star of `other` does.
            let names: Vec<String> = (0..=5).flat_map(|length| all_names(b"abx", length)).collect();
            let covers = names.iter().filter(|name| matches(&other, name)).all(|name| matches(&one, name));
            prop_assert_eq!(matches(&one, &other), covers);
        }

        #[test]
        fn patterns_overlap_if_there_is_a_name_that_both_match(one in "[ab*]{1,5}", other in "[ab*]{1,5}") {
            // What is between the stars of both fits into eight letters.
            let names = (0..=8).flat_map(|length| all_names(b"ab", length));
            let share = names.into_iter().any(|name| matches(&one, &name) && matches(&other, &name));
            prop_assert_eq!(overlap(&one, &other), share);
        }

        #[test]
        fn the_index_finds_what_a_look_at_all_patterns_finds(
            steps in prop::collection::vec((any::<bool>(), "[ab]{0,3}[*][ab*]{0,3}"), 0..20),
            names in prop::collection::vec("[ab]{1,6}", 1..10),
        ) {
            let mut index = PatternIndex::default();
            let mut all: Vec<ChannelName> = Vec::new();
            for (insert, pattern) in steps {
                let pattern = ChannelName::subscribable(&pattern).unwrap();
                all.retain(|known| *known != pattern);
                if insert {
                    index.insert(pattern.clone(), 7);
                    all.push(pattern);
                } else {
                    index.remove(&pattern);
                }
            }
            prop_assert_eq!(index.is_empty(), all.is_empty());
            for name in names {
                let name = ChannelName::new(&name).unwrap();
                let mut found: Vec<_> = index.matching(&name).map(|(pattern, _)| pattern.clone()).collect();
                let mut expected: Vec<_> =
                    all.iter().filter(|pattern| matches(pattern.as_str(), name.as_str())).cloned().collect();
                found.sort();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
        }
    }

    fn all_names(letters: &[u8], length: u32) -> Vec<String> {
        let count = letters.len().pow(length);
        let name = |mut number: usize| {
            let letter = |_| {
                let letter = letters[number % letters.len()];
                number /= letters.len();
                char::from(letter)
            };
            (0..length).map(letter).collect()
        };
        (0..count).map(name).collect()
    }
}
