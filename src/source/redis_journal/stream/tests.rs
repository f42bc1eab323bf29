//! Tests of how losses are found, against a stream as Redis keeps it.

use proptest::prelude::*;

use super::*;

fn id(ms: u64) -> EntryId {
    EntryId { millis: ms, seq: 0 }
}

/// A stream as Redis keeps it, with the ids that it is given.
#[derive(Debug, Clone, Default)]
struct Server {
    entries: Vec<EntryId>,
    /// All entries that it ever had.
    log: Vec<EntryId>,
    generated: EntryId,
    exists: bool,
}

impl Server {
    fn with(ids: impl IntoIterator<Item = u64>) -> Self {
        let mut server = Self::default();
        ids.into_iter().for_each(|ms| server.add(id(ms)));
        server
    }

    fn add(&mut self, entry: EntryId) {
        self.exists = true;
        self.entries.push(entry);
        self.log.push(entry);
        self.generated = entry;
    }

    fn trim(&mut self, left: usize) {
        let removed = self.entries.len().saturating_sub(left);
        self.entries.drain(..removed);
    }

    fn info(&self, counts: bool) -> Option<Info> {
        self.exists.then(|| Info {
            first: self.entries.first().copied(),
            last: self.entries.last().copied(),
            generated: self.generated,
            length: self.entries.len() as u64,
            added: counts.then_some(self.log.len() as u64),
            deleted: counts.then_some(EntryId::ZERO),
        })
    }

    fn after(&self, last: EntryId, count: usize) -> Vec<EntryId> {
        self.entries.iter().copied().filter(|entry| *entry > last).take(count).collect()
    }
}

/// One read as the reader does it. Returns what is delivered and what was found.
fn read(stream: &mut Stream, server: &Server, count: usize, counts: bool) -> (Vec<EntryId>, Vec<Finding>) {
    let mut delivered = Vec::new();
    if let Some(after) = stream.begin_read() {
        delivered.extend(server.after(after, count).into_iter().filter(|&entry| stream.take(entry)));
        if !stream.end_read() {
            return (delivered, Vec::new());
        }
    }
    let mut findings = Vec::new();
    loop {
        let finding = stream.judge(server.info(counts));
        findings.push(finding);
        match finding {
            Finding::Intact | Finding::Trimmed => {
                let mut entries = server.after(stream.last(), count);
                entries.retain(|&entry| stream.deliver(entry));
                return (entries, findings);
            }
            Finding::Deleted => return (delivered, findings),
            Finding::Replaced | Finding::Returned => {
                let common = server.entries.iter().rev().copied().find(|entry| stream.remembered().contains(entry));
                stream.resume_after(common);
                if common.is_some() {
                    let (entries, more) = read(stream, server, count, counts);
                    findings.extend(more);
                    return (entries, findings);
                }
            }
        }
    }
}

/// Reads until nothing more comes.
fn read_all(stream: &mut Stream, server: &Server) -> (Vec<EntryId>, Vec<Finding>) {
    let (mut all, mut findings) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let (entries, found) = read(stream, server, 3, true);
        findings.extend(found.into_iter().filter(|finding| *finding != Finding::Intact));
        if entries.is_empty() {
            return (all, findings);
        }
        all.extend(entries);
    }
    panic!("it reads for ever");
}

fn ids(all: impl IntoIterator<Item = u64>) -> Vec<EntryId> {
    all.into_iter().map(id).collect()
}

fn reader_of(server: &Server) -> Stream {
    let mut stream = Stream::after(EntryId::ZERO, Some(0));
    read_all(&mut stream, server);
    stream
}

#[test]
fn entries_are_delivered_once_and_in_order() {
    let mut server = Server::with(1..=5);
    let mut stream = Stream::after(id(2), Some(2));
    assert_eq!(read_all(&mut stream, &server), (ids(3..=5), vec![]));
    assert_eq!(read_all(&mut stream, &server), (vec![], vec![]));
    (6..=20).for_each(|ms| server.add(id(ms)));
    assert_eq!(read_all(&mut stream, &server), (ids(6..=20), vec![]));
}

#[test]
fn a_stream_that_is_trimmed_up_to_the_last_read_entry_has_lost_nothing() {
    for left in [0, 1, 2] {
        let mut server = Server::with(1..=5);
        let mut stream = reader_of(&server);
        server.trim(0);
        (6..6 + left).for_each(|ms| server.add(id(ms)));
        assert_eq!(read_all(&mut stream, &server), (ids(6..6 + left), vec![]), "{left}");
    }
}

#[test]
fn a_stream_that_is_trimmed_past_the_last_read_entry_has_lost_entries() {
    for left in [0, 1, 3] {
        let mut server = Server::with(1..=5);
        let mut stream = reader_of(&server);
        (6..=10).for_each(|ms| server.add(id(ms)));
        server.trim(left);
        let rest = 11 - u64::try_from(left).unwrap()..=10;
        assert_eq!(read_all(&mut stream, &server), (ids(rest), vec![Finding::Trimmed]), "{left}");
        assert_eq!(read_all(&mut stream, &server), (vec![], vec![]), "it is reported once");
        server.add(id(11));
        assert_eq!(read_all(&mut stream, &server), (ids([11]), vec![]));
    }
}

#[test]
fn a_stream_that_begins_after_the_reader_is_read_from_its_first_entry() {
    let mut stream = Stream::after(EntryId::ZERO, Some(0));
    assert_eq!(read_all(&mut stream, &Server::default()), (vec![], vec![]));
    let mut server = Server::with(1..=3);
    assert_eq!(read_all(&mut stream.clone(), &server), (ids(1..=3), vec![]));
    server.trim(1);
    assert_eq!(read_all(&mut stream, &server), (ids([3]), vec![Finding::Trimmed]));
}

#[test]
fn a_deleted_stream_is_a_loss_and_the_next_one_is_read_whatever_its_ids() {
    for next in [vec![1, 2], vec![9, 10], vec![3, 9]] {
        let mut stream = reader_of(&Server::with(4..=8));
        assert_eq!(read_all(&mut stream, &Server::default()), (vec![], vec![Finding::Deleted]));
        assert_eq!(read_all(&mut stream, &Server::default()), (vec![], vec![]), "it is reported once");
        let server = Server::with(next.clone());
        assert_eq!(read_all(&mut stream, &server), (ids(next), vec![Finding::Returned]));
    }
}

#[test]
fn a_stream_that_was_deleted_and_made_again_between_two_reads_is_a_loss() {
    for next in [vec![1, 2], vec![9, 10], vec![3, 9]] {
        let mut stream = reader_of(&Server::with(4..=8));
        let server = Server::with(next.clone());
        assert_eq!(read_all(&mut stream, &server), (ids(next), vec![Finding::Replaced]));
    }
}

#[test]
fn after_a_failover_to_a_replica_that_lagged_no_entry_is_delivered_twice() {
    let mut stream = reader_of(&Server::with(1..=8));
    let mut replica = Server::with(1..=6);
    assert_eq!(read_all(&mut stream, &replica), (vec![], vec![Finding::Replaced]));
    replica.add(EntryId { millis: 6, seq: 1 });
    replica.add(id(20));
    assert_eq!(read_all(&mut stream, &replica).0, [EntryId { millis: 6, seq: 1 }, id(20)]);

    // The replica has gone on before this node reads it.
    let mut stream = reader_of(&Server::with(1..=8));
    assert_eq!(read_all(&mut stream, &replica), (vec![EntryId { millis: 6, seq: 1 }, id(20)], vec![Finding::Replaced]));
}

#[test]
fn a_server_that_counts_nothing_may_be_reported_as_trimmed_but_never_loses_in_silence() {
    let mut server = Server::with(1..=5);
    let mut stream = reader_of(&server);
    (6..=10).for_each(|ms| server.add(id(ms)));
    assert_eq!(read(&mut stream, &server, 10, false), (ids(6..=10), vec![]));
    server.add(id(11));
    server.trim(1);
    assert_eq!(read(&mut stream, &server, 10, false), (ids([11]), vec![Finding::Trimmed]));
    assert_eq!(read(&mut stream, &Server::with([20]), 10, false), (ids([20]), vec![Finding::Trimmed]));
    let (entries, findings) = read(&mut stream, &Server::with([12, 30]), 10, false);
    assert_eq!((entries, findings[0]), (ids([12, 30]), Finding::Replaced));
}

/// What happens to a stream.
#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Trim(u8),
    Delete,
    /// The primary is replaced by what a replica had some steps ago.
    FailOver,
    Replicate,
    Read(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1_u8..6).prop_map(Step::Add),
        2 => (0_u8..6).prop_map(Step::Trim),
        1 => Just(Step::Delete),
        1 => Just(Step::FailOver),
        2 => Just(Step::Replicate),
        5 => (2_u8..5).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Where a read finds no loss, what it delivers follows the last delivered entry without a hole.
    #[test]
    fn no_entry_is_delivered_twice_and_none_is_missing_without_a_finding(steps in steps()) {
        let (mut server, mut replica) = (Server::default(), Server::default());
        let mut stream = Stream::after(EntryId::ZERO, Some(0));
        let (mut next, mut seen, mut last) = (0, BTreeSet::new(), None);
        for step in steps.into_iter().chain([Step::Add(1), Step::Read(100), Step::Read(100)]) {
            match step {
                Step::Add(count) => for _ in 0..count {
                    next += 1;
                    server.add(id(next));
                },
                Step::Trim(left) => server.trim(left.into()),
                Step::Delete => server = Server::default(),
                Step::Replicate => replica = server.clone(),
                Step::FailOver => server = std::mem::take(&mut replica),
                Step::Read(count) => {
                    // Another stream of which just as many entries were removed as the reader has read can't be told
                    // from its own.
                    let other = last.is_some_and(|last| !server.log.contains(&last));
                    let removed = (server.log.len() - server.entries.len()) as u64;
                    if other && stream.added() == Some(removed) && removed > 0 {
                        return Ok(());
                    }
                    let (entries, findings) = read(&mut stream, &server, count.into(), true);
                    for entry in &entries {
                        prop_assert!(seen.insert(*entry), "{entry:?} was delivered twice");
                    }
                    if findings.iter().any(|finding| *finding != Finding::Intact) {
                        last = None;
                    }
                    if let (Some(last), false) = (last, entries.is_empty()) {
                        let follow = server.log.iter().skip_while(|entry| **entry != last).skip(1);
                        let follow: Vec<EntryId> = follow.copied().take(entries.len()).collect();
                        prop_assert_eq!(&entries, &follow, "after {:?}", last);
                    }
                    last = entries.last().copied().or(last);
                }
            }
        }
        prop_assert!(seen.contains(&id(next)), "the last entry was not read");
    }
}
