//! Tests of the encoding: a snapshot is read as it was written, and a snapshot that can't be used is refused.

use proptest::{collection::vec, option, prelude::*};

use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn channel() -> impl Strategy<Value = ChannelState> {
    let cause = prop_oneof![Just(GapCause::Began), Just(GapCause::Evicted)];
    let (holes, events) = (vec(any::<(u64, u64)>(), 0..3), vec((any::<u64>(), any::<u32>(), bytes()), 0..4));
    ("[a-z]{1,8}", any::<(bool, bool)>(), any::<u64>(), cause, holes, events).prop_map(
        |(name, (open, is_pattern), complete_since, cause, holes, events)| ChannelState {
            name,
            open,
            complete_since,
            cause,
            holes,
            event_channels: if is_pattern { vec!["a".to_owned(); events.len()] } else { Vec::new() },
            events,
            journal: None,
        },
    )
}

fn client() -> impl Strategy<Value = ClientState> {
    use ClientKind::{Envelope, GzipEnvelope, GzipPlain, Plain, Poll};
    let kind = proptest::sample::select(vec![Plain, Envelope, Poll, GzipPlain, GzipEnvelope]);
    let form = proptest::sample::select(vec![PollForm::Json, PollForm::Plain, PollForm::Envelope]);
    let origin = proptest::sample::select(vec![OriginState::Live, OriginState::Resumed, OriginState::Foreign]);
    let loss = proptest::sample::select(vec![LossState::BeforeHistory, LossState::Hole, LossState::Journal]);
    let reported = (any::<u32>(), loss, any::<u64>(), any::<u64>())
        .prop_map(|(channel, kind, end, known)| ReportedState { channel, kind, end, known });
    let behind = (any::<u64>(), origin, bytes(), any::<bool>(), vec(reported, 0..3))
        .prop_map(|(cursor, origin, partial, ends, reported)| BehindState { cursor, origin, partial, ends, reported });
    let (gzip, subject) = (option::of(any::<(u32, u32)>()), option::of("[ -~]{0,9}"));
    let rest = (option::of(behind), option::of((bytes(), form)), gzip, subject);
    (vec(any::<u32>(), 0..4), kind, option::of(any::<u64>()), any::<u64>(), rest).prop_map(
        |(channels, kind, expires, silent, (behind, poll, gzip, subject))| ClientState {
            channels,
            kind,
            expires,
            silent,
            behind,
            poll,
            gzip,
            subject,
            reader: None,
        },
    )
}

fn entry() -> impl Strategy<Value = EntryState> {
    any::<EntryState>()
}

fn journals() -> impl Strategy<Value = JournalsState> {
    (vec(entry(), 0..4), vec(entry(), 0..4), any::<u64>(), vec((any::<u64>(), entry()), 0..4))
        .prop_map(|(passed, floors, others_floor, restarts)| JournalsState { passed, floors, others_floor, restarts })
}

fn channel_journal() -> impl Strategy<Value = ChannelJournalState> {
    let holes = vec((any::<u32>(), any::<u8>(), entry(), entry()), 0..3);
    (option::of((entry(), any::<u64>())), vec(any::<u32>(), 0..3), holes)
        .prop_map(|(journal, others, holes)| ChannelJournalState { journal, others, holes })
}

fn reader() -> impl Strategy<Value = ReaderState> {
    let positions = || vec(any::<u64>(), 0..4);
    let arrival = ("[a-z0-9-]{1,8}", any::<(u64, bool, bool, u64)>(), vec(entry(), 0..4), positions(), positions());
    let arrival = arrival.prop_map(|(own, (since, own_counts, is_simple, losses_since), entries, begins, lost)| {
        ArrivalState { own, since, losses_since, own_counts, is_simple, entries, begins, lost }
    });
    (vec(entry(), 0..4), option::of(arrival)).prop_map(|(passed, arrival)| ReaderState { passed, arrival })
}

proptest! {
    #[test]
    fn a_snapshot_is_read_as_it_was_written(
        node in ("[a-z0-9]{8}", any::<u64>(), any::<bool>()),
        origin in option::of("[ -~]{0,20}"),
        (mut channels, kept) in (vec(channel(), 0..4), vec(("[a-z*]{1,8}", any::<u64>()), 0..3)),
        mut clients in vec(client(), 0..4),
        journals in option::of((journals(), vec(option::of(channel_journal()), 4))),
        readers in vec(option::of(reader()), 4),
        unread in (vec(bytes(), 0..3), vec(bytes(), 0..3)),
        lags in option::of(vec(any::<(u64, u64)>(), 0..3)),
    ) {
        let (name, position, exact) = node;
        let (connections, admin) = unread;
        let journals = journals.map(|(journals, parts)| {
            channels.iter_mut().zip(parts).for_each(|(channel, part)| channel.journal = part);
            journals
        });
        clients.iter_mut().zip(readers).for_each(|(client, part)| client.reader = part);
        let source = |origin| SourceState { id: "redis".to_owned(), origin, checkpoint: Some(Bytes::from_static(b"7")) };
        let snapshot = Snapshot {
            node: NodeState { name, position, exact },
            sources: origin.into_iter().map(source).collect(),
            shards: ShardState { floor: (position, GapCause::Evicted), lags, journals, channels, kept, clients, connections },
            admin,
        };
        let bytes = snapshot.encode().unwrap();
        prop_assert_eq!(Snapshot::decode(&bytes, 2).unwrap(), snapshot);
        // A snapshot that is cut off anywhere is refused, without a panic.
        for length in (0..bytes.len()).step_by(7) {
            prop_assert!(Snapshot::decode(&bytes[..length], 2).is_err());
        }
    }
}

/// A stream that is behind, to which one loss was reported.
fn client_behind() -> ClientState {
    let reported = vec![ReportedState { channel: 0, kind: LossState::Hole, end: 7, known: 9 }];
    let behind = BehindState { cursor: 5, origin: OriginState::Live, partial: Bytes::new(), ends: false, reported };
    ClientState {
        channels: vec![0],
        kind: ClientKind::Plain,
        expires: None,
        silent: 0,
        behind: Some(behind),
        poll: None,
        gzip: None,
        subject: None,
        reader: None,
    }
}

fn snapshot_of(clients: Vec<ClientState>) -> Snapshot {
    Snapshot { shards: ShardState { clients, ..ShardState::default() }, ..Snapshot::default() }
}

#[test]
fn a_snapshot_of_a_program_that_does_not_write_reported_losses_is_read() {
    let mut snapshot = snapshot_of(vec![client_behind()]);
    let mut older = snapshot.encode().unwrap();
    let [tag, version] = [REPORTED, 1].map(u16::to_le_bytes);
    let header = [&tag[..], &version, &7_u64.to_le_bytes()].concat();
    // One client, its index, one loss of four small numbers.
    let section = [&header[..], &[1, 0, 1, 0, 1, 7, 9]].concat();
    let begin = older.windows(section.len()).position(|window| window == section).unwrap();
    older.drain(begin..begin + section.len());
    snapshot.shards.clients[0].behind.as_mut().unwrap().reported.clear();
    assert_eq!(Snapshot::decode(&older, 2).unwrap(), snapshot);
}

#[test]
fn reported_losses_of_a_client_that_is_not_behind_refuse_the_snapshot() {
    let (behind, live) = (client_behind(), ClientState { behind: None, ..client_behind() });
    let section = reported::of_clients(&[live.clone(), behind]);
    assert_eq!(section.len(), 1);
    let error = reported::add(&mut [live.clone(), live], section).unwrap_err();
    assert!(matches!(error, SnapshotError::NotBehind(1)), "{error}");
}

#[test]
fn an_unknown_kind_of_client_refuses_the_snapshot() {
    let client = ClientState { channels: Vec::new(), kind: ClientKind::GzipEnvelope, behind: None, ..client_behind() };
    let snapshot = snapshot_of(vec![client]);
    let mut bytes = snapshot.encode().unwrap();
    // The clients' section: one client, no channels, its kind.
    let at = bytes.windows(6).position(|window| window == [1, 0, 4, 0, 0, 0]).unwrap();
    bytes[at + 2] = 5;
    let error = Snapshot::decode(&bytes, 2).unwrap_err();
    assert!(matches!(error, SnapshotError::Section { tag: CLIENTS, .. }), "{error}");
}

#[test]
fn clients_without_an_identity_need_no_section_and_an_unknown_client_refuses_the_snapshot() {
    let bytes = snapshot_of(vec![client_behind()]).encode().unwrap();
    let grants: Option<Vec<(u32, String)>> = Reader::new(&bytes, KNOWN).unwrap().read_if_present(GRANTS).unwrap();
    assert_eq!(grants, None, "an older program can read it");
    let bytes = Writer::new()
        .section(CHANNELS, 1, &((0_u64, GapCause::Began), Vec::<ChannelState>::new()))
        .and_then(|writer| writer.section(CLIENTS, 1, &Vec::<ClientState>::new()))
        .and_then(|writer| writer.section(GRANTS, 1, &vec![(3_u32, "alice")]))
        .unwrap()
        .finish();
    let error = Snapshot::decode(&bytes, 2).unwrap_err();
    assert!(matches!(error, SnapshotError::UnknownClient(3)), "{error}");
}
