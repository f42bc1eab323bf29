//! Channels that a rule keeps always: subscribed to from the start, by the rule's pattern, and never unsubscribed.

use super::*;
use crate::{
    config::{Channel, ChannelRules, History, Keep},
    cursor::Cursor,
};

/// Rules that keep the channels of these patterns always.
pub(super) fn rules(patterns: &[&str]) -> ChannelRules {
    let table = |pattern: &&str| Channel { r#match: name(pattern), keep: Keep::Always, ..Channel::default() };
    ChannelRules::new(&History::default(), &patterns.iter().map(table).collect::<Vec<_>>())
}

#[test]
fn what_is_kept_always_is_subscribed_to_before_any_client_and_never_released() {
    let mut bench = Bench::of(&[REDIS]);
    bench.dispatcher.keep_always(rules(&["news.*", "orders"]), false);
    bench.reconnect(0);
    let mut open = bench.words();
    open.sort();
    assert_eq!(open, ["open news.*", "open orders"]);
    bench.publish(0, "news.1");
    bench.publish(0, "cats");
    bench.dispatcher.subscribe(0, &name("news.*"));
    bench.dispatcher.release(0, &name("news.*"));
    bench.take_interest(0);
    bench.publish(0, "news.1");
    bench.publish(0, "orders");
    assert_eq!(bench.words()[2..], ["news.1=0:1", "news.1=0:2", "orders=0:1"]);
    assert_eq!(bench.dispatcher.wanted_channels(), []);
}

#[test]
fn a_loss_of_the_source_is_a_gap_for_the_rule_and_a_refusal_ends_with_the_next_connection() {
    let mut bench = Bench::of(&[REDIS]);
    bench.dispatcher.keep_always(rules(&["news.*"]), false);
    bench.disconnect(0);
    bench.reconnect(0);
    assert_eq!(bench.words(), ["open news.*", "gap news.*"]);
    bench.disconnect(0);
    let (pattern, generation) = bench.fakes[0].wanted.pop_first().unwrap();
    bench.reconnect(0);
    bench.dispatcher.refused(0, &pattern, generation, "forbidden");
    bench.disconnect(0);
    assert_eq!(bench.words()[2..], ["gap news.*", "refused news.*"], "a disconnection does not open it");
    bench.reconnect(0);
    bench.take_interest(0);
    bench.confirm(0, "news.*");
    bench.publish(0, "news.1");
    assert_eq!(bench.words()[4..], ["open news.*", "news.1=0:1"]);
}

#[test]
fn messages_that_come_before_a_pattern_is_confirmed_follow_its_opening_in_order() {
    let mut bench = Bench::new(1);
    bench.dispatcher.subscribe(0, &name("a*"));
    bench.dispatcher.subscribe(0, &name("ab"));
    bench.take_interest(0);
    bench.publish(0, "ab");
    bench.publish(0, "a");
    bench.publish(0, "ab");
    bench.confirm(0, "ab");
    assert_eq!(bench.words(), ["open ab", "ab=0:1", "ab=0:2"]);
    bench.confirm(0, "a*");
    assert_eq!(bench.words()[3..], ["open a*", "a=0:1"]);
}

/// A successor that keeps the channels of `patterns` always, whose predecessor has kept those of `before`.
fn successor(patterns: &[&str], before: &[&str], exact: bool) -> Vec<String> {
    let mut new = Bench::of(&[REDIS]);
    let marker = name("ssecast:marker");
    new.dispatcher.keep_always(rules(patterns), true);
    // A client of the predecessor has subscribed to this one by its name.
    new.dispatcher.prepare(&[name("news.1"), name("cats")], Some(&marker));
    new.reconnect(0);
    assert!(new.dispatcher.is_subscribed());
    assert!(!new.fakes[0].wanted.contains_key(&name("news.1")), "it is kept always now");
    new.dispatcher.note_subscribed();
    new.publish(0, "news.1");
    new.dispatcher.publish(0, [message("ssecast:marker", "")], None);
    new.publish(0, "news.1");
    let cursor = Cursor::new(NodeId::random(), Position(1_000));
    let before: Vec<_> = before.iter().map(|pattern| name(pattern)).collect();
    let open = [name("news.1"), name("cats")];
    assert_eq!(new.dispatcher.begin(Sequencer::after(cursor), &open, &before, exact, []), exact);
    assert!(new.dispatcher.is_subscribed());
    new.words()
}

#[test]
fn a_successor_goes_on_with_what_its_predecessor_has_kept_without_a_gap() {
    assert_eq!(successor(&["news.*"], &["news.*"], true), ["news.1=0:2"]);
    assert_eq!(successor(&["news.*"], &[], true), ["open news.*", "news.1=0:2"], "a rule that is new");
    assert_eq!(successor(&["news.*"], &["news.*"], false), ["gap cats,news.*", "news.1=0:2"]);
}

/// Seen as a silent loss: the source refused the name, delivered it for the pattern, and lost messages of both.
#[test]
fn a_channel_that_is_delivered_for_a_pattern_alone_shares_the_patterns_gaps() {
    let mut bench = Bench::new(2);
    bench.dispatcher.subscribe(0, &name("c*"));
    bench.dispatcher.subscribe(0, &name("c"));
    for source in 0..2 {
        bench.take_interest(source);
        bench.confirm(source, "c*");
    }
    bench.refuse(0, "c");
    bench.confirm(1, "c");
    bench.publish(0, "c");
    bench.disconnect(0);
    bench.publish(0, "c");
    bench.reconnect(0);
    bench.publish(0, "c");
    assert_eq!(bench.words(), ["open c*", "open c", "c=0:1", "gap c,c*", "c=0:3"]);
    bench.dispatcher.release(0, &name("c*"));
    assert_eq!(bench.words()[5..], ["gap c", "gone c*"], "from now on it is not delivered");
}

/// The gap event of a channel that a source refuses by its name was left out, where the pattern was not open yet.
#[test]
fn a_channel_that_is_delivered_for_a_pattern_that_is_not_open_has_its_gaps() {
    let mut bench = Bench::new(2);
    bench.dispatcher.subscribe(0, &name("c"));
    bench.dispatcher.subscribe(0, &name("c*"));
    (0..2).for_each(|source| bench.take_interest(source));
    bench.refuse(0, "c");
    bench.confirm(1, "c");
    bench.publish(0, "c");
    bench.disconnect(0);
    bench.publish(0, "c");
    bench.reconnect(0);
    bench.publish(0, "c");
    assert_eq!(bench.words(), ["open c", "c=0:1", "gap c", "c=0:3"]);
}
