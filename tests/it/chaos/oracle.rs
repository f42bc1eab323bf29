//! The promise as a check: what one client assembled is in order and without duplicates, and each hole lies under a gap event
//! that names its channel. Pure: it is given what came, in the order in which it came.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The number of the message that ends a channel.
pub(super) const END: u64 = u64::MAX;

/// What a client was given.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// It connected: to the same node as before, or to another one, where it may be given again what it has.
    Connected { same_node: bool },
    /// Message `number` of a channel.
    Message { channel: String, number: u64 },
    /// A gap event.
    Gap { channels: Vec<String> },
    /// Gaps of a poll's answer, whose place among the events that follow up to [`Item::AnswerEnd`] is not known.
    AnswerGap { channels: Vec<String> },
    /// The end of a poll's answer.
    AnswerEnd,
}

/// What came of one channel so far.
#[derive(Debug, Default)]
struct Progress {
    /// The last number in this connection.
    last: Option<u64>,
    /// The greatest number of all.
    greatest: Option<u64>,
    /// A gap event has come and no message since.
    gap: bool,
    /// The poll's answer that is being read has a gap.
    answer_gap: bool,
    /// The gap was one of a poll's answer: it may have stood before what came in the answer, and then nothing is missing now.
    answered_gap: bool,
    /// The client has changed nodes: numbers may come again.
    moved: bool,
}

/// What the publishers have done.
#[derive(Debug, Default)]
pub(super) struct Publications {
    /// How many numbers of each channel were used, from 0.
    pub(super) used: BTreeMap<String, u64>,
    /// Numbers that perhaps were not published.
    pub(super) uncertain: HashSet<(String, u64)>,
}

/// What was counted while checking.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) messages: usize,
    pub(super) gaps: usize,
    /// Numbers that are missing under a gap event.
    pub(super) lost: u64,
    /// Gap events after which nothing was missing of a channel.
    pub(super) needless: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.gaps += other.gaps;
        self.lost += other.lost;
        self.needless += other.needless;
    }
}

/// Checks what a client of `channels` was given. The error says what broke the promise, and at which item.
pub(super) fn check(channels: &[String], items: &[Item], published: &Publications) -> Result<Counts, (usize, String)> {
    let mut progress: HashMap<&str, Progress> =
        channels.iter().map(|name| (name.as_str(), Progress::default())).collect();
    let mut counts = Counts::default();
    for (at, item) in items.iter().enumerate() {
        match item {
            Item::Connected { same_node } => {
                for channel in progress.values_mut() {
                    channel.moved |= !same_node;
                    if !same_node {
                        channel.last = None;
                    }
                }
            }
            Item::Gap { channels } | Item::AnswerGap { channels } => {
                counts.gaps += 1;
                for name in channels {
                    let channel = progress.get_mut(name.as_str());
                    let channel = channel.ok_or_else(|| (at, format!("a gap event for {name}, not subscribed to")))?;
                    match item {
                        Item::Gap { .. } => channel.gap = true,
                        _ => channel.answer_gap = true,
                    }
                }
            }
            Item::AnswerEnd => progress.values_mut().for_each(Progress::end_answer),
            Item::Message { channel: name, number } => {
                counts.messages += 1;
                let channel = progress.get_mut(name.as_str());
                let channel = channel.ok_or_else(|| (at, format!("{name} {number}, not subscribed to")))?;
                channel.take(*number, name, published, &mut counts).map_err(|error| (at, error))?;
            }
        }
    }
    Ok(counts)
}

impl Progress {
    fn end_answer(&mut self) {
        self.answered_gap |= std::mem::take(&mut self.answer_gap);
    }

    fn take(&mut self, number: u64, name: &str, published: &Publications, counts: &mut Counts) -> Result<(), String> {
        let end = published.used.get(name).copied().unwrap_or(0);
        let number = if number == END { end } else { number };
        if let Some(last) = self.last.filter(|&last| number <= last && last < end) {
            return Err(format!("{name} {number} came after {last}"));
        }
        self.last = Some(number);
        let greatest = self.greatest.unwrap_or(0);
        if self.greatest.is_some() && number <= greatest {
            return if self.moved || number == end { Ok(()) } else { Err(format!("{name} {number} came again")) };
        }
        // The first message of all has no predecessor that was due.
        let next = self.greatest.map_or(number, |greatest| greatest + 1);
        let missing: Vec<u64> =
            (next..number).filter(|&number| !published.uncertain.contains(&(name.to_owned(), number))).collect();
        match (self.gap || self.answer_gap || self.answered_gap, missing.as_slice()) {
            (false, [first, .., last]) => return Err(format!("no gap event for {name} {first}..={last}")),
            (false, [first]) => return Err(format!("no gap event for {name} {first}")),
            // A gap before the first message of all may stand for what came before that.
            (true, []) if self.gap && self.greatest.is_some() => counts.needless += 1,
            (_, missing) => counts.lost += missing.len() as u64,
        }
        (self.greatest, self.gap, self.answered_gap) = (Some(number), false, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64) -> Item {
        Item::Message { channel: "a".to_owned(), number }
    }

    fn gap() -> Item {
        Item::Gap { channels: vec!["a".to_owned()] }
    }

    fn check_a(items: &[Item]) -> Result<Counts, (usize, String)> {
        let published = Publications { used: [("a".to_owned(), 9)].into(), uncertain: [("a".to_owned(), 7)].into() };
        check(&["a".to_owned()], items, &published)
    }

    #[test]
    fn what_breaks_the_promise_is_noticed() {
        assert_eq!(check_a(&[message(1), message(3)]), Err((1, "no gap event for a 2".to_owned())));
        assert_eq!(check_a(&[message(1), message(1)]), Err((1, "a 1 came after 1".to_owned())));
        assert_eq!(check_a(&[message(3), message(2)]), Err((1, "a 2 came after 3".to_owned())));
        assert_eq!(check_a(&[message(3), gap(), message(END)]).unwrap().lost, 4, "7 was perhaps not published");
        assert!(check_a(&[message(3), gap(), message(4), message(END)]).is_err(), "the gap event was elsewhere");
        let again = [message(3), Item::Connected { same_node: true }, message(3)];
        assert!(check_a(&again).is_err());
    }

    #[test]
    fn what_keeps_the_promise_passes() {
        let counts = check_a(&[message(3), gap(), gap(), message(6), message(8), message(END)]).unwrap();
        assert_eq!(counts, Counts { messages: 4, gaps: 2, lost: 2, needless: 0 });
        let moved = [message(3), Item::Connected { same_node: false }, message(2), message(3), message(4)];
        assert_eq!(check_a(&moved).unwrap().messages, 4);
        assert_eq!(check_a(&[message(3), gap(), message(4)]).unwrap().needless, 1);
        let answer = [
            message(3),
            Item::AnswerGap { channels: vec!["a".to_owned()] },
            message(4),
            message(6),
            Item::AnswerEnd,
            message(9),
        ];
        assert_eq!(check_a(&answer).unwrap().lost, 2);
    }
}
