//! Long polls: they get the same events with the same cursors as streams.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};

use crate::support::{
    Daemon, Endpoint, Folder, Nginx, Parser, RedisServer, Request, Response, Subscription, eventually,
};

/// A daemon whose polls wait at most for `wait`.
fn start(wait: &str) -> (Folder, Daemon) {
    let folder = Folder::new();
    let daemon = Daemon::start(&folder, &format!("[stream]\nping_interval = {wait:?}\n[history]\nmessages = 10000\n"));
    (folder, daemon)
}

/// The request of a poll that resumes after `cursor`.
fn request(endpoint: &Endpoint, channels: &str, cursor: &str) -> Request {
    let target = format!("{}?channels={channels}&last_event_id={cursor}", endpoint.base());
    Request::get(target).header("Connection", "close")
}

fn poll(endpoint: &Endpoint, channels: &str, cursor: &str) -> Value {
    let response: Response = request(endpoint, channels, cursor).header("Accept", "application/json").send(endpoint);
    assert_eq!(response.status(), 200);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("cache-control"), Some("no-store"));
    response.json()
}

/// The cursor in an answer, for the next poll.
fn cursor(answer: &Value) -> String {
    answer["cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {answer}")).to_owned()
}

#[test]
fn a_poll_without_events_waits_for_the_next_one() {
    let (_folder, daemon) = start("1h");
    thread::scope(|scope| {
        let polling = scope.spawn(|| poll(daemon.public(), "cats,dogs", ""));
        eventually("it waits", || (daemon.subscribers("cats") == 1).then_some(()));
        let id = daemon.publish_form(&[("channel", "dogs"), ("message", "a\r\nb"), ("event", "bark")]).id;
        let answer = polling.join().unwrap();
        let event = json!({ "id": id, "channel": "dogs", "event": "bark", "data": "a\nb" });
        assert_eq!((&answer["events"], &answer["gap"]), (&json!([event]), &json!([])));
        assert_eq!(Some(cursor(&answer)), id);
    });
    eventually("an answered poll is not counted", || daemon.stats().is_empty().then_some(()));
}

#[test]
fn a_poll_with_events_is_answered_at_once() {
    let (_folder, daemon) = start("1h");
    let first = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    let ids: Vec<_> = (0..5).map(|number| daemon.publish("cats", &number.to_string()).id).collect();
    let answer = poll(daemon.public(), "cats", &first);
    let expected: Vec<Value> = ids
        .iter()
        .zip(0..)
        .map(|(id, number)| json!({ "id": id, "channel": "cats", "data": number.to_string() }))
        .collect();
    assert_eq!(answer["events"], Value::from(expected));
    assert_eq!(Some(&cursor(&answer)), ids[4].as_ref());
}

#[test]
fn a_poll_without_events_is_answered_empty_after_the_ping_interval() {
    let (_folder, daemon) = start("100ms");
    let answer = poll(daemon.public(), "cats", "");
    assert_eq!((&answer["events"], &answer["gap"]), (&json!([]), &json!([])));
    daemon.publish("cats", "between two polls");
    let answer = poll(daemon.public(), "cats", &cursor(&answer));
    assert_eq!(answer["events"][0]["data"], "between two polls");
}

#[test]
fn a_poll_answer_has_gaps() {
    let (_folder, daemon) = start("1h");
    daemon.publish("cats", "kept");
    let answer = poll(daemon.public(), "cats", "no-cursor");
    assert_eq!(answer["gap"], json!([{ "channels": ["cats"], "reason": "restart" }]));
    assert_eq!(answer["events"][0]["data"], "kept");
}

/// Polls `endpoint` while events are published, and asserts that each arrives once and in order.
fn poll_while_published(daemon: &Daemon, endpoint: &Endpoint, count: usize) {
    let done = AtomicBool::new(false);
    let mut cursor = cursor(&poll(endpoint, "cats,dogs", ""));
    let mut received = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..count {
                daemon.publish(["cats", "dogs"][number % 2], &number.to_string());
            }
            done.store(true, Ordering::Release);
        });
        while received.len() < count || !done.load(Ordering::Acquire) {
            let answer = poll(endpoint, "cats,dogs", &cursor);
            cursor = self::cursor(&answer);
            assert_eq!(answer["gap"], json!([]));
            let events = answer["events"].as_array().unwrap().iter();
            received.extend(events.map(|event| event["data"].as_str().unwrap().parse::<usize>().unwrap()));
        }
    });
    assert_eq!(received, (0..count).collect::<Vec<_>>());
}

#[test]
fn consecutive_polls_get_every_event_once() {
    let (_folder, daemon) = start("50ms");
    poll_while_published(&daemon, daemon.public(), 2000);
}

#[test]
fn consecutive_polls_through_nginx_get_every_event_once() {
    needs!("nginx");
    let (folder, mut daemon) = start("50ms");
    let nginx = Nginx::start(&folder, &daemon);
    poll_while_published(&daemon, &nginx.sse(), 500);
    daemon.child().kill();
    let response = request(&nginx.sse(), "cats", "").header("Accept", "application/json").send(&nginx.sse());
    assert_eq!(response.status(), 503, "a poll can't be answered with an empty event stream");
}

#[test]
fn events_that_do_not_fit_in_one_answer_come_in_several() {
    let (_folder, daemon) = start("100ms");
    let mut next = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    let message = "x".repeat(50_000);
    daemon.publish_many("cats", std::iter::repeat_n(message.as_str(), 200));
    let mut received = 0;
    while received < 200 {
        let answer = poll(daemon.public(), "cats", &next);
        next = cursor(&answer);
        received += answer["events"].as_array().unwrap().len();
    }
    assert_eq!(received, 200);
}

#[test]
fn a_poll_of_cyclone_sse_s_plugin_is_answered_with_an_event_stream() {
    let (_folder, daemon) = start("1h");
    let first = Subscription::to(&["cats"]).open(daemon.public()).last_event_id();
    let id = daemon.publish("cats", "meow").id.unwrap();
    let request = request(daemon.public(), "cats", "").header("X-Requested-With", "XMLHttpRequest");
    let response = request.header("Last-Event-ID", &first).send(daemon.public());
    assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
    let (mut parser, mut events) = (Parser::default(), Vec::new());
    parser.feed(&response.body(), &mut events);
    assert_eq!(events.iter().map(|event| (event.text(), &event.id)).collect::<Vec<_>>(), [("meow".to_owned(), &id)]);
    assert_eq!(parser.committed_id, Some(id), "the next poll resumes there");
}

/// A poll's cursor said the position of one node alone, and another node took that for a time: a client whose polls went to two nodes
/// by turns got the last `history.skew` again and again, at once.
#[test]
fn polls_that_alternate_between_two_nodes_move_on() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let tables = format!("{}[stream]\nping_interval = \"100ms\"\n", redis.table());
    let nodes = ["one", "other"].map(|name| Daemon::start_named(&folder, name, &tables));
    let _streams = [0, 1].map(|node| Subscription::to(&["cats"]).open(nodes[node].public()));
    let mut next = eventually("the nodes are subscribed since longer than history.skew", || {
        let next = cursor(&poll(nodes[1].public(), "cats", ""));
        let answer = poll(nodes[0].public(), "cats", &next);
        (answer["gap"] == json!([])).then(|| cursor(&answer))
    });
    let mut polls = nodes.iter().cycle();
    let mut received = HashMap::new();
    let mut answer = || {
        let answer = poll(polls.next().unwrap().public(), "cats", &next);
        next = cursor(&answer);
        assert_eq!(answer["gap"], json!([]));
        let data = |event: &Value| event["data"].as_str().unwrap().to_owned();
        answer["events"].as_array().unwrap().iter().map(data).collect::<Vec<_>>()
    };
    for number in 0..20 {
        redis.publish("cats", number.to_string());
        answer().into_iter().for_each(|data| *received.entry(data).or_insert(0) += 1);
    }
    // Each node has something that only the other one has given; then there is nothing more.
    for _ in 0..2 {
        answer().into_iter().for_each(|data| *received.entry(data).or_insert(0) += 1);
    }
    assert_eq!([answer(), answer(), answer()], [Vec::<String>::new(), Vec::new(), Vec::new()]);
    let mut times: Vec<(usize, usize)> =
        received.into_iter().map(|(data, times)| (data.parse().unwrap(), times)).collect();
    times.sort_unstable();
    assert!(times.iter().map(|(number, _)| *number).eq(0..20), "{times:?}");
    assert!(times.iter().all(|(_, times)| *times <= 2), "once from each node at most: {times:?}");
}

/// The first id of a stream was older by `history.skew` than the one that its client came with, each time that it changed the node.
#[test]
fn the_first_id_of_a_stream_at_another_node_does_not_go_back() {
    let folder = Folder::new();
    let tables = "[history]\nskew = \"1ms\"\n";
    let nodes = ["one", "other"].map(|name| Daemon::start_named(&folder, name, tables));
    // A node that lags for a moment gives a gap event, with another id: then once more.
    eventually("the first id stays at every change of nodes", || {
        let first = Subscription::to(&["cats"]).open(nodes[0].public()).last_event_id();
        let is_first =
            |node: usize| Subscription::to(&["cats"]).after(&first).open(nodes[node].public()).last_event_id() == first;
        [1, 0, 1].into_iter().all(is_first).then_some(())
    });
}

#[test]
fn a_poll_whose_client_disconnects_is_removed() {
    use std::io::Write;
    let (_folder, daemon) = start("1h");
    let mut socket = daemon.public().connect().unwrap();
    let request = request(daemon.public(), "cats", "").header("Accept", "application/json");
    socket.write_all(&request.to_bytes()).unwrap();
    eventually("it waits", || (daemon.subscribers("cats") == 1).then_some(()));
    drop(socket);
    eventually("it is not counted", || daemon.stats().is_empty().then_some(()));
}
