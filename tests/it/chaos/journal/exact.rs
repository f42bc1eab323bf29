//! The promise of a journal as a check: what one client assembled is what the journal has, message for message. Pure: it is given
//! what came and what the journal has.

use std::collections::HashMap;

use super::super::oracle::Item;

/// An entry's id, as Redis writes it, to compare it.
pub(super) type Id = (u64, u64);

/// What the journals have of each channel, in order: the entry's id and the message's number.
pub(super) type Truth = HashMap<String, Vec<(Id, u64)>>;

/// What is due to a client.
#[derive(Debug, Clone)]
pub(super) enum Due {
    /// Everything.
    All,
    /// What follows these entries, for each channel that has one.
    After(HashMap<String, Id>),
    /// Everything from some message on: it began while messages were published.
    FromSomewhere,
}

/// The entry `milliseconds-number`.
pub(super) fn entry(text: &str) -> Id {
    let (millis, number) = text.split_once('-').unwrap();
    (millis.parse().unwrap(), number.parse().unwrap())
}

/// The entry of each journal that an event's id names.
pub(super) fn entries_of(id: &str) -> Vec<Id> {
    let Some((_, entries)) = id.split_once('~') else { return Vec::new() };
    let entries = entries.split('_').next().unwrap();
    entries.split('.').filter(|entry| !entry.is_empty()).map(entry).collect()
}

/// Checks what a client of `channels` was given. Returns the number of messages. The error says what broke the promise, and at which
/// item.
pub(super) fn check(channels: &[String], items: &[Item], due: &Due, truth: &Truth) -> Result<usize, (usize, String)> {
    // How many messages of each channel the client has passed; `None` before its first.
    let mut passed: HashMap<&str, Option<usize>> = HashMap::new();
    for name in channels {
        let first = match due {
            Due::All => Some(0),
            Due::After(after) => after.get(name).map(|last| truth[name].partition_point(|(id, _)| id <= last)),
            Due::FromSomewhere => None,
        };
        passed.insert(name, first);
    }
    let mut count = 0;
    for (at, item) in items.iter().enumerate() {
        match item {
            Item::Connected { .. } | Item::AnswerEnd => {}
            // It came without an id to a node that had not reached Redis yet: what it has missed since then is unknown.
            Item::Gap { .. } | Item::AnswerGap { .. } if count == 0 && matches!(due, Due::FromSomewhere) => {}
            Item::Gap { channels } | Item::AnswerGap { channels } => {
                return Err((at, format!("a gap of {channels:?}, where nothing was lost")));
            }
            Item::Message { channel, number } => {
                let all = &truth[channel];
                let number = *number;
                let Some(next) = passed.get_mut(channel.as_str()) else {
                    return Err((at, format!("{channel} {number}, not subscribed to")));
                };
                let place = match *next {
                    Some(next) if all.get(next).is_some_and(|(_, other)| *other == number) => Some(next),
                    _ => all.iter().position(|(_, other)| *other == number),
                };
                let place = place.ok_or_else(|| (at, format!("{channel} {number} is not in the journal")))?;
                let expected = next.unwrap_or(place);
                if place != expected {
                    let due =
                        all.get(expected).map_or("nothing".to_owned(), |(id, number)| format!("{number} ({id:?})"));
                    let (id, _) = all[place];
                    return Err((at, format!("{channel} {number} ({id:?}) came where {due} was due")));
                }
                *next = Some(place + 1);
                count += 1;
            }
        }
    }
    for (name, next) in passed {
        let all = truth[name].len();
        if next != Some(all) {
            return Err((items.len(), format!("{name} ends after {next:?} of {all} messages")));
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64) -> Item {
        Item::Message { channel: "a".to_owned(), number }
    }

    fn check_a(items: &[Item], due: &Due) -> Result<usize, String> {
        let truth = [("a".to_owned(), vec![((1, 0), 10), ((1, 1), 12), ((2, 0), 11)])].into();
        check(&["a".to_owned()], items, due, &truth).map_err(|(_, error)| error)
    }

    #[test]
    fn exactly_what_the_journal_has_passes() {
        let all = [message(10), Item::Connected { same_node: false }, message(12), message(11)];
        assert_eq!(check_a(&all, &Due::All), Ok(3));
        assert_eq!(check_a(&all, &Due::FromSomewhere), Ok(3));
        assert_eq!(check_a(&all[2..], &Due::FromSomewhere), Ok(2));
        let after = Due::After([("a".to_owned(), (1, 0))].into());
        assert_eq!(check_a(&all[2..], &after), Ok(2));
        let gap = Item::Gap { channels: vec!["a".to_owned()] };
        assert_eq!(check_a(&[gap, message(11)], &Due::FromSomewhere), Ok(1), "before everything");
    }

    #[test]
    fn each_difference_is_an_error() {
        let whole = [message(10), message(12), message(11)];
        let gap = Item::Gap { channels: vec!["a".to_owned()] };
        for wrong in [
            &[message(10), message(11)] as &[Item],
            &[message(10), message(12)],
            &[message(12), message(11)],
            &[message(10), message(10), message(12), message(11)],
            &[message(10), message(12), message(12), message(11)],
            &[message(10), message(12), message(11), message(11)],
            &[message(10), gap, message(12), message(11)],
            &[message(10), message(13), message(12), message(11)],
            &[],
        ] {
            check_a(wrong, &Due::All).unwrap_err();
        }
        check_a(&whole, &Due::After([("a".to_owned(), (1, 0))].into())).unwrap_err();
        check_a(&[message(10), message(11)], &Due::FromSomewhere).unwrap_err();
        let gap = Item::Gap { channels: vec!["a".to_owned()] };
        check_a(&[message(12), gap, message(11)], &Due::FromSomewhere).unwrap_err();
    }

    #[test]
    fn an_id_names_the_entry_of_each_journal() {
        assert_eq!(entries_of("abcdefgh-7~12-3.4-5_bbbbbbbb-8"), [(12, 3), (4, 5)]);
        assert_eq!(entries_of("abcdefgh-7"), []);
        assert_eq!(entries_of("abcdefgh-7~_bbbbbbbb-8"), []);
    }
}
