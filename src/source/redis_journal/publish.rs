//! Publishes by XADD, so that every node gets the messages and Redis keeps them. It never retries what Redis may have: the publisher
//! gets an answer.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use redis::{Cmd, RedisError, RedisResult};
use tokio::time::timeout;

use crate::{
    broker::{PublishError, Published, Publisher, Publishing},
    cursor::{Entry, EntryId, journal_of},
    event::Message,
    source::{
        Node,
        redis::{Server, SharedConnection, explain, is_forbidden},
    },
};

/// Longest wait for a publish, with the connection that it may need.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module.
pub(super) struct JournalPublisher {
    /// Its own, since the reader's waits for entries.
    connection: SharedConnection,
    keys: Vec<String>,
    maxlen: usize,
    node: Node,
}

impl JournalPublisher {
    /// A publisher to the streams `keys`. `maxlen`: about how many entries it leaves in a stream; 0: all.
    pub(super) fn new(server: Server, keys: Vec<String>, maxlen: usize, node: Node) -> Self {
        Self { connection: SharedConnection::new(server, &keys), keys, maxlen, node }
    }

    async fn send(&self, messages: &[Message], sent: &AtomicBool) -> Result<Vec<Entry>, PublishError> {
        let connection = self.connection.get().await.map_err(|error| {
            let why = format!("Redis is disconnected ({error})");
            PublishError::Unavailable { why, may_have_arrived: false }
        })?;
        let mut commands = redis::pipe();
        // Redis may refuse one message of a list alone: its stream is another one than that of the others.
        commands.ignore_errors();
        if messages.len() > 1 {
            commands.atomic(); // All of a list or, where one is refused, none.
        }
        let journals: Vec<u8> =
            messages.iter().map(|message| journal_of(message.channel.as_str(), self.keys.len())).collect();
        for (message, &journal) in messages.iter().zip(&journals) {
            commands.add_command(xadd(&self.keys[usize::from(journal)], self.maxlen, message));
        }
        sent.store(true, Ordering::Relaxed);
        let answers: RedisResult<Vec<RedisResult<String>>> =
            commands.query_async(&mut connection.commands.clone()).await;
        let answers = answers.map_err(|error| self.refusal(&error, false))?;
        let some = answers.iter().any(Result::is_ok);
        let entry = |(answer, journal): (RedisResult<String>, u8)| {
            let id: String = answer.map_err(|error| self.refusal(&error, some))?;
            let id: EntryId = id.parse().map_err(|_| PublishError::Unavailable {
                why: format!("Redis answered {id:?} to XADD, which is no entry"),
                may_have_arrived: true,
            })?;
            Ok(Entry { journal, id })
        };
        answers.into_iter().zip(journals).map(entry).collect()
    }

    /// The answer for an error of Redis. `some`: whether another message of the list was published.
    fn refusal(&self, error: &RedisError, some: bool) -> PublishError {
        // The server may be the primary, or the owner of the keys, no longer.
        let elsewhere = matches!(error.code(), Some("READONLY" | "MOVED" | "ASK"));
        if elsewhere || error.is_unrecoverable_error() || error.is_timeout() {
            self.connection.discard();
        }
        let why = format!("Redis refused the publish ({})", explain(error));
        if some {
            let why = format!("{why}; other messages of the list were published");
            return PublishError::Unavailable { why, may_have_arrived: true };
        }
        if is_forbidden(error) {
            return PublishError::Refused(format!("{why}; nothing was published: allow it in Redis's ACL"));
        }
        if error.code() == Some("WRONGTYPE") {
            let keys = self.keys.join(", ");
            return PublishError::Refused(format!(
                "{why}; nothing was published: a key of redis.journal ({keys}) holds no stream; remove or rename it"
            ));
        }
        // An answer with a code refuses the whole list. Without an answer, the list may have arrived.
        PublishError::Unavailable { why, may_have_arrived: error.code().is_none() }
    }
}

fn xadd(key: &str, maxlen: usize, message: &Message) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(key);
    if maxlen > 0 {
        command.arg("MAXLEN").arg("~").arg(maxlen);
    }
    command.arg("*").arg("channel").arg(message.channel.as_str()).arg("data").arg(&message.data[..]);
    if let Some(event) = &message.event {
        command.arg("event").arg(event.as_str());
    }
    command
}

impl Publisher for JournalPublisher {
    fn publish(&self, messages: Vec<Message>) -> Publishing<'_> {
        Box::pin(async move {
            if messages.is_empty() {
                return Ok(Vec::new());
            }
            // A client that begins at an id that is answered gets what was published after it.
            let before = self.node.cursor();
            let sent = AtomicBool::new(false);
            let entries = match timeout(PUBLISH_TIMEOUT, self.send(&messages, &sent)).await {
                Ok(done) => done?,
                Err(_) => {
                    self.connection.discard();
                    let why = format!("Redis gave no answer in {PUBLISH_TIMEOUT:?}");
                    return Err(PublishError::Unavailable { why, may_have_arrived: sent.into_inner() });
                }
            };
            let names = messages.into_iter().map(|message| message.channel).collect();
            let subscribers = self.node.subscribers(names).await;
            let published = |(entry, subscribers)| Published { id: Some(before.with_entry(entry)), subscribers };
            Ok(entries.into_iter().zip(subscribers).map(published).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{ChannelName, EventType};

    fn words(command: &Cmd) -> Vec<String> {
        let word = |arg| match arg {
            redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => "?".to_owned(),
        };
        command.args_iter().map(word).collect()
    }

    #[test]
    fn a_message_is_written_as_applications_write_it() {
        let message = Message::new(ChannelName::new("base").unwrap(), None, "[1,2,3]".into());
        assert_eq!(words(&xadd("ssecast", 0, &message)).join(" "), "XADD ssecast * channel base data [1,2,3]");
        let update = Message { event: Some(EventType::new("update").unwrap()), ..message };
        let expected = "XADD ssecast MAXLEN ~ 9 * channel base data [1,2,3] event update";
        assert_eq!(words(&xadd("ssecast", 9, &update)).join(" "), expected);
    }
}
