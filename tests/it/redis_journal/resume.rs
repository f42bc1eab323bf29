//! A client goes on exactly after its last entry: at another node, and after every node was restarted.

use nix::sys::signal::Signal;

use super::{alternate::Poller, *};

#[test]
fn a_client_resumes_exactly_at_another_node_over_several_channels() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let nodes = nodes(&folder, &redis);
    let mut stream = open(&nodes[0], &["a", "b", "c"]);
    let mut texts = Vec::new();
    for round in 0..20_usize {
        for number in round * 10..(round + 1) * 10 {
            redis.add(["a", "b", "c", "elsewhere"][number % 4], &number.to_string());
        }
        // Cut off in the middle, it goes on at the other node.
        let due: Vec<String> =
            (round * 10..(round + 1) * 10).filter(|number| number % 4 < 3).map(|number| number.to_string()).collect();
        let first = stream.events(due.len() / 2);
        let id = first.last().unwrap().id.clone();
        texts.extend(first.into_iter().map(|event| event.text()));
        stream = Subscription::to(&["a", "b", "c"]).after(&id).open(nodes[(round + 1) % 2].public());
        texts.extend(stream.texts(due.len() - due.len() / 2));
    }
    let expected: Vec<String> = (0..200).filter(|number| number % 4 < 3).map(|number| number.to_string()).collect();
    assert_eq!(texts, expected);
}

#[test]
fn a_client_resumes_exactly_after_every_node_was_restarted() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut nodes = nodes(&folder, &redis);
    let mut stream = open(&nodes[0], &["a", "b"]);
    redis.add_many("a", 0..10);
    redis.add("b", "10");
    assert_eq!(stream.texts(11), numbers(0..11));
    let id = stream.last_event_id();
    drop(stream);
    redis.add("a", "before the restart");
    for node in &mut nodes {
        node.start_again();
        node.wait_until_ready();
    }
    redis.add("b", "after the restart");
    for node in &nodes {
        let mut stream = Subscription::to(&["a", "b"]).after(&id).open(node.public());
        assert_eq!(stream.texts(2), ["before the restart", "after the restart"], "and no gap");
    }
}

#[test]
fn a_client_that_joined_before_the_first_entry_resumes_exactly() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let mut nodes = nodes(&folder, &redis);
    let id = open(&nodes[0], &["a"]).last_event_id();
    redis.add("a", "1");
    nodes[1].start_again();
    nodes[1].wait_until_ready();
    let mut stream = Subscription::to(&["a"]).after(&id).open(nodes[1].public());
    assert_eq!(stream.texts(1), ["1"]);
}

#[test]
fn what_was_trimmed_before_a_node_started_is_a_gap_for_clients_that_lack_it() {
    needs!("redis-server");
    let folder = Folder::new();
    let redis = RedisServer::start(&folder);
    let [one, mut other] = nodes(&folder, &redis);
    let mut stream = open(&one, &["a"]);
    redis.add_many("a", 0..10);
    let ids: Vec<String> = stream.events(10).into_iter().map(|event| event.id).collect();
    let _: usize = redis.query(redis::cmd("XTRIM").arg("ssecast").arg("MAXLEN").arg(3));
    other.start_again();
    other.wait_until_ready();
    let mut exact = Subscription::to(&["a"]).after(&ids[7]).open(other.public());
    assert_eq!(exact.texts(2), numbers(8..10), "it has all that was trimmed");
    let mut lacking = Subscription::to(&["a"]).after(&ids[5]).open(other.public());
    assert_eq!(lacking.gap().channels, ["a"]);
    assert_eq!(lacking.texts(3), numbers(7..10));
}

#[test]
fn clients_that_resume_cause_no_request_to_redis() {
    needs!("redis-server");
    let (_folder, redis, mut daemon) = start("");
    redis.add_many("a", 0..50);
    daemon.start_again();
    daemon.wait_until_ready();
    let mut stream = open(&daemon, &["a"]);
    redis.add("a", "last");
    assert_eq!(stream.texts(1), ["last"]);
    let id = stream.last_event_id();
    let (mut before, mut range) = (redis.calls("xread"), 0);
    range += redis.calls("xrange") + redis.calls("xrevrange");
    let began = std::time::Instant::now();
    for _ in 0..200 {
        drop(Subscription::to(&["a"]).after(&id).open(daemon.public()));
    }
    // The node waits for entries in the meantime: two reads a second, and a check at times.
    let allowed = 20 + 4 * u64::try_from(began.elapsed().as_millis() / 500).unwrap();
    before = redis.calls("xread") - before;
    assert!(before <= allowed, "{before} XREADs in {:?}", began.elapsed());
    assert_eq!(redis.calls("xrange") + redis.calls("xrevrange"), range);
}

#[test]
fn a_client_that_comes_before_a_node_has_read_its_tail_gets_all_of_it() {
    needs!("redis-server");
    let folder = Folder::new();
    let mut redis = RedisServer::start(&folder);
    let mut one = Daemon::start_named(&folder, "one", &format!("{}[history]\nmessages = 10000\n", table(&redis)));
    one.wait_until_ready();
    let mut stream = open(&one, &["a"]);
    redis.add_many("a", 0..10);
    let id = stream.events(10).pop().unwrap().id;
    redis.add_many("a", 10..3000);
    // The other node serves, but Redis does not answer it yet.
    redis.child().signal(Signal::SIGSTOP);
    let mut other = Daemon::start_named(&folder, "other", &format!("{}[history]\nmessages = 10000\n", table(&redis)));
    let mut stream = Subscription::to(&["a"]).after(&id).open(other.public());
    let mut poll = Poller::new(&["a"], &id);
    poll.send(other.public());
    eventually("both wait", || (other.subscribers("a") == 2).then_some(()));
    redis.child().signal(Signal::SIGCONT);
    assert_eq!(stream.texts(2990), numbers(10..3000));
    let mut texts = poll.answer();

    while texts.len() < 2990 {
        poll.send(other.public());
        texts.extend(poll.answer());
    }
    assert_eq!(texts, numbers(10..3000));
    other.wait_until_ready();
    redis.add("a", "3000");
    assert_eq!(stream.texts(1), ["3000"]);
}
