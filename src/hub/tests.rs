//! Tests of one hub: a client that resumes after a cursor gets the later events, once and in order, or a gap event. Tests over
//! several hubs are in `gap_tests`, tests of what is dropped in `retention_tests`.

use bytes::Bytes;

use super::*;
use crate::{
    cursor::Entries,
    event::{Coding, Form, Message},
    sse::GapReason,
};

pub(super) const SECOND: u64 = 1_000_000;

pub(super) struct Harness {
    pub(super) hub: Hub,
    pub(super) sequencer: Sequencer,
    /// The wall clock, in microseconds since 1970.
    pub(super) now: u64,
    /// How far the wall clock was set forward since the start.
    pub(super) jumped: u64,
}

impl Harness {
    pub(super) fn new(limits: config::History, on_demand: bool) -> Self {
        let now = 1_000 * SECOND;
        let sequencer = Sequencer::new("abcdefgh".parse().unwrap(), now);
        Self { hub: Hub::new(sequencer.cursor(), limits, on_demand), sequencer, now, jumped: 0 }
    }

    /// Sets the rules of these tables.
    pub(super) fn set_rules(&mut self, tables: &[config::Channel]) {
        let on_demand = self.hub.on_demand;
        let hub = Hub::new(self.sequencer.cursor(), self.hub.limits.clone(), on_demand);
        self.hub = hub.with_rules(ChannelRules::new(&self.hub.limits, tables));
    }

    pub(super) fn uptime(&self) -> Uptime {
        Uptime(u32::try_from((self.now - self.jumped) / 100_000).unwrap())
    }

    pub(super) fn publish(&mut self, channel: &str, data: &str) -> Position {
        self.publish_at(self.now, channel, data)
    }

    /// Publishes what gets a position of `time`, since the node lags.
    fn publish_late(&mut self, time: u64, channel: &str) -> Position {
        self.hub.note_lag(LagSpan { until: self.now, after: self.sequencer.last() });
        self.publish_at(time, channel, "late")
    }

    fn publish_at(&mut self, time: u64, channel: &str, data: &str) -> Position {
        let position = self.sequencer.next(time);
        let message = Message::new(name(channel), None, Bytes::from(data.to_owned()));
        let event = Event::new(self.sequencer.node(), position, &Entries::NONE, &message);
        self.hub.publish(&Arc::new(event), self.uptime());
        while let Some(batch) = self.hub.next_batch() {
            self.hub.recycle(batch);
        }
        self.hub.trim(self.uptime());
        position
    }

    pub(super) fn join(&mut self, channels: &[&str], client: ClientIndex) -> (GroupId, u32) {
        let ids: Vec<ChannelId> = channels.iter().map(|channel| self.hub.hold(&name(channel))).collect();
        let joined = self.hub.join(ids.clone(), Kind::Stream(Form::Plain, Coding::Identity), client);
        ids.into_iter().for_each(|id| self.hub.release(id, self.uptime()));
        joined
    }

    /// The items that a client gets that begins with `start`.
    pub(super) fn resume(&mut self, channels: &[&str], start: Start) -> Vec<Given> {
        let (group, slot) = self.join(channels, 7);
        let reader = self.hub.reader(start, self.now);
        let given = self.hub.replay(group, &reader).map(Given::from).collect();
        self.hub.leave(group, slot, self.uptime());
        given
    }

    /// A source that was disconnected after `begin` is connected again.
    pub(super) fn reconnect(&mut self, channels: &[&str], begin: Position) -> Position {
        let hole = Hole::new(begin, self.sequencer.next(self.now));
        for channel in channels {
            self.hub.restore(&name(channel), hole, &mut Vec::new());
        }
        hole.end
    }

    pub(super) fn after(&self, position: Position) -> Start {
        Start::After(self.hub.cursor_at(position))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Given {
    Event(Position),
    Gap(Position, Vec<String>, GapReason),
}

impl From<ReplayItem> for Given {
    fn from(due: ReplayItem) -> Self {
        match due {
            ReplayItem::Event(event, _) => Self::Event(event.position()),
            ReplayItem::Gap { id, channels, reason, .. } => {
                Self::Gap(id.position, channels.iter().map(ToString::to_string).collect(), reason)
            }
        }
    }
}

pub(super) fn name(name: &str) -> ChannelName {
    ChannelName::subscribable(name).unwrap()
}

pub(super) fn limits(messages: usize) -> config::History {
    config::History { messages, ..config::History::default() }
}

#[test]
fn several_channels_are_replayed_in_one_order() {
    let mut harness = Harness::new(limits(10), false);
    let start = harness.sequencer.last();
    let published: Vec<_> = ["a", "b", "a", "c", "b"].iter().map(|channel| harness.publish(channel, "x")).collect();
    let given = harness.resume(&["a", "b"], harness.after(start));
    assert_eq!(given, [published[0], published[1], published[2], published[4]].map(Given::Event));
    assert_eq!(harness.resume(&["a", "b"], harness.after(published[2])), [Given::Event(published[4])]);
    assert_eq!(harness.resume(&["a", "b"], Start::Now), []);
}

#[test]
fn dropped_events_are_a_gap_whose_id_is_the_last_dropped_position() {
    let mut harness = Harness::new(limits(2), false);
    let start = harness.sequencer.last();
    let a: Vec<_> = (0..4).map(|_| harness.publish("a", "x")).collect();
    let b = harness.publish("b", "x");
    let gap = Given::Gap(a[1], vec!["a".to_owned()], GapReason::History);
    let given = harness.resume(&["a", "b"], harness.after(start));
    assert_eq!(given, [gap, Given::Event(a[2]), Given::Event(a[3]), Given::Event(b)]);
    assert_eq!(harness.resume(&["a"], harness.after(a[1])), [Given::Event(a[2]), Given::Event(a[3])]);
}

#[test]
fn a_gap_event_comes_before_later_events_of_any_channel_and_its_id_is_before_them() {
    let mut harness = Harness::new(limits(1), false);
    let start = harness.sequencer.last();
    let b = harness.publish("b", "x");
    let a: Vec<_> = (0..2).map(|_| harness.publish("a", "x")).collect();
    let gap = Given::Gap(start, vec!["a".to_owned()], GapReason::History);
    assert_eq!(harness.resume(&["a", "b"], harness.after(start)), [gap, Given::Event(b), Given::Event(a[1])]);
}

#[test]
fn a_clock_step_back_before_a_restart_hides_no_event_from_clients_of_the_earlier_run() {
    let mut harness = Harness::new(limits(10), false);
    harness.now += 10 * SECOND;
    let event = harness.publish("a", "x");
    let before: NodeId = format!("{}zzzzz", &harness.hub.node().as_str()[..3]).parse().unwrap();
    // The clock of the earlier run was 6 s ahead: by its cursor's time, its client would have the event of this run.
    harness.now += 10 * SECOND;
    let cursor = Cursor::new(before, Position(event.0 + 6 * SECOND));
    let given = harness.resume(&["a"], Start::After(cursor));
    assert!(matches!(&given[..], [Given::Gap(_, _, GapReason::Restart), Given::Event(_)]), "{given:?}");
}

#[test]
fn a_channel_that_no_source_must_confirm_lives_beside_channels_on_demand() {
    let mut harness = Harness::new(limits(10), false);
    let first = harness.publish("always", "1");
    harness.hub.on_demand = true;
    harness.publish("on demand", "dropped");
    let second = harness.publish("always", "2");
    assert_eq!(harness.resume(&["always"], harness.after(first)), [Given::Event(second)]);
    let (always, on_demand) = (harness.hub.hold(&name("always")), harness.hub.hold(&name("on demand")));
    assert!(!harness.hub.is_on_demand(always) && harness.hub.is_on_demand(on_demand));
    assert_eq!(harness.hub.subscription(always).0, Subscription::Confirmed);
    assert_eq!(harness.hub.subscription(on_demand).0, Subscription::Pending);
}

#[test]
fn an_id_from_ahead_of_its_nodes_clock_is_exact_there_and_hides_no_event_at_another_node() {
    let mut harness = Harness::new(limits(10), false);
    harness.now += 10 * SECOND;
    let events = [harness.publish("a", "x"), harness.publish("a", "y")];
    harness.hub.set_timed(false);
    let own = harness.hub.cursor_at(events[0]);
    assert_eq!(own.to_string(), format!("ABCDEFGH-{}", events[0]));
    harness.hub.set_timed(true);
    assert_eq!(harness.resume(&["a"], Start::After(own)), [Given::Event(events[1])]);
    assert_eq!(harness.hub.cursor_at(events[0]).to_string(), format!("abcdefgh-{}", events[0]));
    // Its clock was 6 s ahead and was set back: by its position the client has both events.
    harness.now += 10 * SECOND;
    let other = Cursor::new("ZZZZZZZZ".parse().unwrap(), Position(events[1].0 + 6 * SECOND));
    let given = harness.resume(&["a"], Start::After(other));
    assert!(
        matches!(&given[..], [Given::Gap(_, _, GapReason::Restart), Given::Event(_), Given::Event(_)]),
        "{given:?}"
    );
}

/// A node that has stood still gives what it then reads positions of the time before. Seen with two nodes: a client with the
/// other node's cursor was not given these events, and got no gap event.
#[test]
fn an_event_that_arrived_late_is_given_to_a_client_of_another_node_whose_cursor_is_later() {
    let other = |seconds: u64| Cursor::new("zzzzzzzz".parse().unwrap(), Position(seconds * SECOND));
    let mut harness = Harness::new(limits(3), false);
    harness.now = 1_010 * SECOND;
    harness.publish("a", "on time");
    // It reads at 1,016 s, and its source is known to have delivered everything up to 1,010 s.
    harness.now = 1_016 * SECOND;
    let late = [0, 1].map(|_| harness.publish_late(1_011 * SECOND, "a"));
    // By positions, a cursor of 1,015 s less the skew would be after both.
    assert_eq!(harness.resume(&["a"], Start::After(other(1_015))), [Given::Event(late[0]), Given::Event(late[1])]);
    // The event that was on time, and the whole history after it, are not given again to who has read them here.
    assert_eq!(harness.resume(&["a"], harness.after(late[1])), []);
    // Once they are older than the cursor of another node, they are not given again there either.
    harness.now = 1_030 * SECOND;
    assert_eq!(harness.resume(&["a"], Start::After(other(1_029))), []);
    // Once they were dropped, that is a gap, also where all that is kept came in time.
    harness.now = 1_017 * SECOND;
    let kept = ["1", "2", "3"].map(|data| Given::Event(harness.publish("a", data)));
    let given = harness.resume(&["a"], Start::After(other(1_016)));
    assert!(matches!(given[0], Given::Gap(_, _, GapReason::Restart)) && given[1..] == kept, "{given:?}");
}

/// The late events of one channel decided how far back the client began, and those of another channel were then taken for
/// events that it has.
#[test]
fn dropped_late_events_are_a_gap_on_each_channel_for_a_client_of_another_node() {
    let mut harness = Harness::new(limits(1), false);
    harness.now = 1_016 * SECOND;
    let late = ["a", "b", "a", "b"].map(|channel| harness.publish_late(1_011 * SECOND, channel));
    for channels in [["a", "b"], ["b", "a"]] {
        let other = Cursor::new("zzzzzzzz".parse().unwrap(), Position(1_015 * SECOND));
        let given = harness.resume(&channels, Start::After(other));
        let gap = Given::Gap(late[1], vec!["a".to_owned(), "b".to_owned()], GapReason::Restart);
        assert_eq!(given, [gap, Given::Event(late[2]), Given::Event(late[3])]);
    }
}

/// A channel that began, or whose source was connected again, while the node lagged had a position that was too old: what was
/// published before was not reported.
#[test]
fn a_channel_that_began_late_and_a_hole_that_ended_late_are_gaps_for_a_client_of_another_node() {
    let other = |seconds: u64| Start::After(Cursor::new("zzzzzzzz".parse().unwrap(), Position(seconds * SECOND)));
    let mut harness = Harness::new(limits(10), true);
    harness.hub.confirm(&name("a"), Some(harness.sequencer.last()));
    let begin = harness.sequencer.next(1_011 * SECOND);
    harness.hub.advance(begin);
    harness.now = 1_016 * SECOND;
    harness.hub.note_lag(LagSpan { until: harness.now, after: begin });
    let end = harness.sequencer.next(1_011 * SECOND);
    harness.hub.restore(&name("a"), Hole::new(begin, end), &mut Vec::new());
    harness.hub.confirm(&name("b"), Some(end));
    harness.now = 1_020 * SECOND;
    let last = harness.publish("c", "x");
    harness.hub.advance(last);
    let given = harness.resume(&["a", "b"], other(1_015));
    let [Given::Gap(_, first, GapReason::Restart), Given::Gap(at, second, GapReason::Source)] = &given[..] else {
        panic!("{given:?}");
    };
    assert_eq!((&first[..], *at, &second[..]), (&["b".to_owned()][..], end, &["a".to_owned()][..]));
    assert_eq!(harness.resume(&["a", "b"], other(1_019)), [], "the client has what was published before both");
}

#[test]
fn a_cursor_of_another_run_counts_as_a_time() {
    let mut harness = Harness::new(limits(10), false);
    harness.now += 10 * SECOND;
    let event = harness.publish("a", "x");
    let other = |position| Start::After(Cursor::new("zzzzzzzz".parse().unwrap(), position));
    // The cursor's time less the skew is after this run's start: later events are given, and nothing was missed.
    assert_eq!(harness.resume(&["a"], other(Position(event.0 + SECOND))), [Given::Event(event)]);
    harness.now += 10 * SECOND;
    assert_eq!(harness.resume(&["a"], other(Position(event.0 + 3 * SECOND))), []);
    // What was published before the start is not known.
    let given = harness.resume(&["a"], other(Position(SECOND)));
    assert_eq!(given[0], Given::Gap(Position(1_000 * SECOND), vec!["a".to_owned()], GapReason::Restart));
    assert_eq!(given[1], Given::Event(event));
    // The other clock is far ahead: its cursor does not say which events the client has.
    let given = harness.resume(&["a"], other(Position(u64::MAX)));
    assert!(matches!(&given[..], [Given::Gap(_, _, GapReason::Restart), Given::Event(_)]), "{given:?}");
}

#[test]
fn an_unknown_id_gets_a_gap_event_and_all_kept_events() {
    let mut harness = Harness::new(limits(10), false);
    let event = harness.publish("a", "x");
    let given = harness.resume(&["a", "b"], Start::Unknown);
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(given, [Given::Gap(Position(1_000 * SECOND), both, GapReason::Restart), Given::Event(event)]);
}

#[test]
fn a_source_that_was_disconnected_is_a_gap_for_all_its_channels() {
    let mut harness = Harness::new(limits(10), true);
    let id = harness.hub.hold(&name("a"));
    assert_eq!(harness.hub.subscription(id), (Subscription::Pending, false));
    let open = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("a"), Some(open));
    harness.hub.confirm(&name("b"), Some(open));
    let event = harness.publish("a", "x");
    let back = harness.reconnect(&["a", "b"], event);
    let both = vec!["a".to_owned(), "b".to_owned()];
    let gap = Given::Gap(back, both, GapReason::Source);
    assert_eq!(harness.resume(&["a", "b"], harness.after(open)), [Given::Event(event), gap]);
    assert_eq!(harness.resume(&["a", "b"], harness.after(back)), []);
}

#[test]
fn an_event_of_a_channel_without_subscription_is_not_kept() {
    let mut harness = Harness::new(limits(10), true);
    harness.publish("a", "x");
    assert_eq!(harness.hub.id(&name("a")), None);
    assert_eq!(harness.hub.bytes, 0);
}

#[test]
fn a_group_ends_with_its_last_client_and_leaves_its_channels() {
    let mut harness = Harness::new(limits(2), false);
    let mut clients: Vec<(GroupId, u32)> = Vec::new();
    for (client, channels) in
        [vec!["a"], vec!["a", "b"], vec!["b", "a"], vec!["b"], vec!["a", "b", "c"]].iter().enumerate()
    {
        clients.push(harness.join(channels, u32::try_from(client).unwrap()));
    }
    assert_eq!(clients[1].0, clients[2].0, "order does not matter");
    assert_eq!(harness.hub.subscribers_of(&name("a")), 4);
    assert_eq!(
        harness.hub.leave(clients[1].0, clients[1].1, harness.uptime()),
        Some(2),
        "the other client is moved to the place"
    );
    assert_eq!(harness.hub.leave(clients[2].0, clients[1].1, harness.uptime()), None);
    for index in [0, 3, 4] {
        harness.hub.leave(clients[index].0, clients[index].1, harness.uptime());
    }
    assert!(harness.hub.channels.iter().all(|(_, channel)| channel.groups.is_empty() && channel.subscribers == 0));
}

#[test]
fn each_disconnect_of_a_source_is_reported_in_its_place() {
    let mut harness = Harness::new(limits(100), true);
    let open = harness.sequencer.next(harness.now);
    harness.hub.confirm(&name("a"), Some(open));
    let mut given = Vec::new();
    let mut first_hole = None;
    for _ in 0..8 {
        let event = harness.publish("a", "x");
        given.push(Given::Event(event));
        let back = harness.reconnect(&["a"], event);
        first_hole.get_or_insert(back);
        given.push(Given::Gap(back, vec!["a".to_owned()], GapReason::Source));
    }
    assert_eq!(harness.resume(&["a"], harness.after(open)), given);
    // With one hole too many, the events before the first hole are dropped.
    harness.reconnect(&["a"], harness.sequencer.last());
    let resumed = harness.resume(&["a"], harness.after(open));
    assert_eq!(resumed[0], Given::Gap(first_hole.unwrap(), vec!["a".to_owned()], GapReason::History));
    assert_eq!(resumed[1..resumed.len() - 1], given[2..given.len() - 1], "the last two holes share a gap event");
}

#[test]
fn a_cursor_within_a_hole_gets_its_gap_event_at_once() {
    // The client was connected while the source was disconnected, and got events of other sources.
    let mut harness = Harness::new(limits(100), true);
    harness.hub.confirm(&name("a"), Some(harness.sequencer.last()));
    harness.hub.confirm(&name("b"), Some(harness.sequencer.last()));
    let begin = harness.publish("a", "x");
    let meanwhile = [harness.publish("b", "x"), harness.publish("b", "x")];
    let back = harness.reconnect(&["a"], begin);
    let gap = |id| Given::Gap(id, vec!["a".to_owned()], GapReason::Source);
    let given = harness.resume(&["a", "b"], harness.after(Position(begin.0 - 1)));
    assert_eq!(
        given,
        [begin, meanwhile[0], meanwhile[1]].map(Given::Event).into_iter().fold(Vec::new(), |mut all, event| {
            all.push(event);
            if all.len() == 1 {
                all.push(gap(begin));
            }
            all
        })
    );
    assert_eq!(
        harness.resume(&["a", "b"], harness.after(meanwhile[0])),
        [gap(meanwhile[0]), Given::Event(meanwhile[1])]
    );
    assert_eq!(harness.resume(&["a", "b"], harness.after(back)), []);
}

#[test]
fn a_reported_hole_is_not_reported_again_after_an_upgrade() {
    let mut harness = Harness::new(limits(10), true);
    let begin = harness.sequencer.last();
    ["a", "b"].iter().for_each(|channel| harness.hub.confirm(&name(channel), Some(begin)));
    let published = [harness.publish("b", "1"), harness.publish("b", "2")];
    harness.reconnect(&["a"], begin);
    let (group, _) = harness.join(&["a", "b"], 7);
    let mut reader = harness.hub.reader(harness.after(begin), harness.now);
    let items: Vec<ReplayItem> = harness.hub.replay(group, &reader).take(2).collect();
    items.iter().for_each(|item| reader.pass(item));
    let given: Vec<Given> = items.into_iter().map(Given::from).collect();
    assert_eq!(given, [Given::Gap(begin, vec!["a".to_owned()], GapReason::Source), Given::Event(published[0])]);

    let mut successor = Harness::new(limits(10), true);
    for (_, channel) in harness.hub.export() {
        successor.hub.import(channel, successor.uptime());
    }
    let reader = successor.hub.import_reader(reader.cursor, reader.origin, reader.reported().iter().copied());
    let (group, _) = successor.join(&["a", "b"], 7);
    let given: Vec<Given> = successor.hub.replay(group, &reader).map(Given::from).collect();
    assert_eq!(given, [Given::Event(published[1])]);
}

/// The report of the longer hole counted for the shorter one within it, although an event came between the two.
#[test]
fn overlapping_holes_of_two_sources_are_both_reported_to_a_client_that_gets_one_item_at_a_time() {
    let mut harness = Harness::new(limits(10), true);
    let begin = harness.sequencer.last();
    harness.hub.confirm(&name("a"), Some(begin));
    let event = harness.publish("a", "from the other source");
    harness.reconnect(&["a"], event);
    let end = harness.reconnect(&["a"], begin);
    let (group, _) = harness.join(&["a"], 7);
    let mut reader = harness.hub.reader(harness.after(begin), harness.now);
    let mut given = Vec::new();
    while let Some(item) = harness.hub.replay(group, &reader).next() {
        reader.pass(&item);
        given.push(Given::from(item));
    }
    let gap = |position| Given::Gap(position, vec!["a".to_owned()], GapReason::Source);
    assert_eq!(given[..2], [gap(begin), Given::Event(event)]);
    assert!(matches!(&given[2..], [Given::Gap(position, ..)] if *position > event && *position <= end), "{given:?}");
}

#[test]
fn a_channel_confirmed_while_its_source_is_disconnected_is_a_gap_at_once() {
    let mut harness = Harness::new(limits(100), true);
    harness.hub.confirm(&name("b"), Some(harness.sequencer.last()));
    let start = harness.sequencer.last();
    let b = harness.publish("b", "x");
    harness.hub.confirm(&name("a"), None);
    let gap = Given::Gap(start, vec!["a".to_owned()], GapReason::History);
    assert_eq!(harness.resume(&["a", "b"], harness.after(start)), [gap, Given::Event(b)]);
    assert_eq!(harness.resume(&["a", "b"], Start::Now), []);
}

#[test]
fn a_connected_client_gets_each_gap_once() {
    let mut harness = Harness::new(limits(2), false);
    let mut reader = Reader::live(harness.sequencer.last());
    let (group, _) = harness.join(&["a", "b"], 1);
    let b: Vec<_> = (0..2).map(|_| harness.publish("b", "x")).collect();
    for _ in 0..5 {
        harness.publish("a", "x");
    }
    let mut next = |harness: &Harness| {
        let item = harness.hub.replay(group, &reader).next()?;
        reader.pass(&item);
        Some(Given::from(item))
    };
    let gap = |id| Some(Given::Gap(id, vec!["a".to_owned()], GapReason::Slow));
    assert_eq!(next(&harness), gap(Position(1_000 * SECOND)));
    assert_eq!(next(&harness), Some(Given::Event(b[0])));
    // Published before the gap event and dropped after it: the gap event covers it, as the application has loaded the channel's
    // state since.
    let later = harness.publish("a", "x");
    assert_eq!(next(&harness), Some(Given::Event(b[1])));
    // Published and dropped after the gap event: it needs another one.
    harness.publish("a", "x");
    let kept = [harness.publish("a", "x"), harness.publish("a", "x")];
    assert_eq!(next(&harness), gap(Position(kept[0].0 - 1)));
    assert!(later < Position(kept[0].0 - 1));
    assert_eq!(next(&harness), Some(Given::Event(kept[0])));
    assert_eq!(next(&harness), Some(Given::Event(kept[1])));
    assert_eq!(next(&harness), None);
}
