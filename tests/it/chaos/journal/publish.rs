//! Publishers of the test of several nodes, and what they know of their publishes: there, perhaps there, or not there.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    super::oracle::END,
    exact::{Id, Truth, entries_of, entry},
};
use crate::support::{Endpoint, RedisServer, Request, Response};

/// What the answer to a publish said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is there. The event's id, or the entry's, if the answer had it.
    There(Option<String>),
    /// It is there once or not at all.
    Maybe,
    /// It is not there.
    Not,
}

/// One message and its outcome.
#[derive(Debug)]
pub(super) struct Publish {
    publisher: usize,
    channel: &'static str,
    number: u64,
    outcome: Outcome,
}

/// Where a publisher sends its messages.
pub(super) enum Way {
    /// The admin socket of a node.
    Admin(Endpoint),
    /// `XADD`, to the stream of the channel.
    Redis { client: redis::Client, keys: Vec<String> },
}

pub(super) struct Publisher {
    pub(super) number: usize,
    /// How many there are: their messages' numbers differ.
    pub(super) of: usize,
    pub(super) way: Way,
    pub(super) channels: &'static [&'static str],
    pub(super) random: fastrand::Rng,
}

impl Publisher {
    /// Publishes until `ended`. `answered` has the last id that an answer had.
    pub(super) fn run(mut self, ended: &AtomicBool, answered: &Mutex<Option<String>>) -> Vec<Publish> {
        let mut done = Vec::new();
        let mut next = self.number as u64;
        while !ended.load(Ordering::Relaxed) {
            let count = match self.random.u32(..60) {
                0 => 60,
                1..30 => 1,
                _ => self.random.usize(1..4),
            };
            let mut messages = Vec::with_capacity(count);
            for _ in 0..count {
                let padding = if self.random.u32(..50) == 0 { 20_000 } else { self.random.usize(..400) };
                let channel = self.channels[self.random.usize(..self.channels.len())];
                messages.push((channel, next, format!("{channel} {next} {:.>padding$}", "")));
                next += self.of as u64;
            }
            let outcomes = self.send(&messages);
            if let (Way::Admin(_), Some(Outcome::There(Some(id)))) = (&self.way, outcomes.last()) {
                *answered.lock().unwrap() = Some(id.clone());
            }
            for ((channel, number, _), outcome) in messages.into_iter().zip(outcomes) {
                done.push(Publish { publisher: self.number, channel, number, outcome });
            }
            thread::sleep(Duration::from_millis(self.random.u64(2..25)));
        }
        done
    }

    fn send(&mut self, messages: &[(&'static str, u64, String)]) -> Vec<Outcome> {
        match &self.way {
            Way::Redis { client, keys } => add(client, keys, messages),
            Way::Admin(admin) => match messages {
                [(channel, _, text)] => {
                    let form = [("channel", *channel), ("message", text.as_str())];
                    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
                    vec![post(admin, "application/x-www-form-urlencoded", body, 1).remove(0)]
                }
                _ => {
                    let list: Vec<_> = messages
                        .iter()
                        .map(|(channel, _, text)| serde_json::json!({ "channel": channel, "message": text }))
                        .collect();
                    post(admin, "application/json", serde_json::Value::from(list).to_string(), messages.len())
                }
            },
        }
    }
}

/// Posts `body`, which publishes `count` messages.
fn post(admin: &Endpoint, content_type: &str, body: String, count: usize) -> Vec<Outcome> {
    // Without a connection, or without its whole request, a node publishes nothing; otherwise it may have, whatever follows.
    let Ok(mut socket) = admin.connect() else { return vec![Outcome::Not; count] };
    let _ = socket.write_all(&Request::post("/publish", content_type, body).to_bytes());
    let Ok(mut response) = Response::read_head(socket) else { return vec![Outcome::Maybe; count] };
    let (status, mut answer) = (response.status(), Vec::new());
    loop {
        match response.read_some() {
            Ok(Some(more)) => answer.extend_from_slice(&more),
            Ok(None) => break,
            Err(_) => return vec![Outcome::Maybe; count],
        }
    }
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    if status == 200 {
        let answers = answer.as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
        assert_eq!(answers.len(), count, "{answer}");
        let there = |one: &serde_json::Value| {
            assert_eq!(one["status"], "ok", "{answer}");
            Outcome::There(Some(one["id"].as_str().unwrap_or_else(|| panic!("no id in {answer}")).to_owned()))
        };
        return answers.iter().map(there).collect();
    }
    assert_eq!(status, 503, "{answer}");
    match answer["code"].as_str().unwrap() {
        "maybe_published" => vec![Outcome::Maybe; count],
        "not_published" | "stopping" => vec![Outcome::Not; count],
        other => panic!("{other}: {answer}"),
    }
}

/// Adds entries to the channels' streams, in one pipeline.
fn add(client: &redis::Client, keys: &[String], messages: &[(&'static str, u64, String)]) -> Vec<Outcome> {
    let Ok(mut connection) = client.get_connection() else { return vec![Outcome::Not; messages.len()] };
    let mut pipe = redis::pipe();
    for (channel, _, text) in messages {
        pipe.cmd("XADD")
            .arg(&keys[key_of(channel, keys.len())])
            .arg("*")
            .arg("channel")
            .arg(channel)
            .arg("data")
            .arg(text);
    }
    match pipe.query::<Vec<String>>(&mut connection) {
        // The entry alone, as an id that names nothing else.
        Ok(ids) => ids.into_iter().map(|id| Outcome::There(Some(format!("~{id}")))).collect(),
        Err(_) => vec![Outcome::Maybe; messages.len()],
    }
}

/// The number of the stream that a channel belongs to: the CRC-32 of its name, modulo their number.
pub(super) fn key_of(channel: &str, keys: usize) -> usize {
    let mut crc = flate2::Crc::new();
    crc.update(channel.as_bytes());
    crc.sum() as usize % keys
}

/// Reads the journals.
pub(super) fn read(redis: &RedisServer, keys: &[String], channels: &[&str]) -> Truth {
    let mut truth: Truth = channels.iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
    for (at, key) in keys.iter().enumerate() {
        let entries: Vec<(String, Vec<String>)> = redis.query(redis::cmd("XRANGE").arg(key).arg("-").arg("+"));
        for (id, fields) in entries {
            let [_, channel, _, data] = fields.as_slice() else { panic!("{id}: {fields:?}") };
            assert_eq!(key_of(channel, keys.len()), at, "{channel} stands in {key}");
            let number = data.split(' ').nth(1).unwrap();
            let number = if number == "end" { END } else { number.parse().unwrap() };
            truth.get_mut(channel).unwrap().push((entry(&id), number));
        }
    }
    truth
}

/// Asserts that the journals have what the publishers' answers say. Returns how many messages were perhaps published.
pub(super) fn assert_answers_are_true(publishes: &[Publish], truth: &Truth, keys: usize) -> usize {
    let mut entries: HashMap<(&str, u64), Vec<Id>> = HashMap::new();
    for (channel, all) in truth {
        for (id, number) in all.iter().filter(|(_, number)| *number != END) {
            entries.entry((channel.as_str(), *number)).or_default().push(*id);
        }
    }
    let (mut maybe, mut last) = (0, HashMap::new());
    for Publish { publisher, channel, number, outcome } in publishes {
        let found = entries.remove(&(*channel, *number)).unwrap_or_default();
        let what =
            format!("{channel} {number} of publisher {publisher}: answered {outcome:?}, in the journal {found:?}");
        match outcome {
            Outcome::There(id) => {
                let [found] = found[..] else { panic!("{what}") };
                if let Some(id) = id {
                    let named = entries_of(id);
                    let at = if named.len() > 1 { key_of(channel, keys) } else { 0 };
                    assert_eq!(named.get(at), Some(&found), "{what}");
                }
                let before = last.insert((publisher, channel), found);
                assert!(before.is_none_or(|before| before < found), "{what}, after {before:?}");
            }
            Outcome::Maybe => {
                assert!(found.len() <= 1, "{what}");
                maybe += 1;
            }
            Outcome::Not => assert!(found.is_empty(), "{what}"),
        }
    }
    assert!(entries.is_empty(), "nobody published {entries:?}");
    maybe
}
