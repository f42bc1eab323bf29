//! Turns what Redis sends into messages, on the task that reads the connection. It has no queue of its own.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use redis::{PushInfo, PushKind};
use tokio::sync::{Notify, mpsc::UnboundedSender};

use super::{
    copies::Copies,
    probe::Probe,
    tap::{Delivered, Messages},
    wire,
};
use crate::{
    event::Message,
    lock::lock,
    name::ChannelName,
    source::{Batch, Sink},
};

/// Takes what Redis sends.
#[derive(Clone)]
pub(super) struct Receiver {
    sink: Sink,
    prefix: String,
    /// What stands before a pattern in Redis: the prefix, with its wildcards escaped.
    pattern_prefix: String,
    /// Notified when the connection is closed.
    gone: Arc<Notify>,
}

impl Receiver {
    pub(super) fn new(sink: Sink, prefix: String, gone: Arc<Notify>) -> Self {
        Self { sink, pattern_prefix: wire::escape(&prefix), prefix, gone }
    }

    /// Takes what the library has read. The tap takes the messages.
    pub(super) fn receive(&self, push: &PushInfo) {
        if push.kind == PushKind::Disconnection {
            self.gone.notify_one();
        }
    }

    fn name(&self, in_redis: &[u8]) -> Option<ChannelName> {
        let name = in_redis.strip_prefix(self.prefix.as_bytes())?;
        ChannelName::from_bytes(name).map_err(|why| self.sink.drop_invalid(&why)).ok()
    }

    fn pattern<'a>(&self, in_redis: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(in_redis.strip_prefix(self.pattern_prefix.as_bytes())?).ok()
    }

    fn message(&self, name: ChannelName, payload: Bytes) -> Option<Message> {
        wire::decode(name, payload).map_err(|why| self.sink.drop_invalid(&why)).ok()
    }
}

/// What Redis ends without being asked: subscriptions and connections.
pub(super) struct Ended {
    /// Channels that Redis was asked to unsubscribe, by their names in Redis. The library waits for those answers.
    pub(super) leaving: Arc<Mutex<HashSet<Vec<u8>>>>,
    /// Takes all others.
    pub(super) reports: UnboundedSender<Vec<u8>>,
    /// Set when a connection ends in the middle of a message.
    pub(super) broke_off: Arc<AtomicBool>,
}

/// Where messages come from that are taken.
struct Origin {
    pattern: Option<Vec<u8>>,
    in_redis: Vec<u8>,
    name: ChannelName,
}

/// The messages of one read.
pub(super) struct Gathered {
    receiver: Receiver,
    /// `None`: there is none on this connection.
    probe: Option<Arc<Probe>>,
    ended: Ended,
    copies: Copies,
    /// Where the last message came from that was taken: the next message often comes from there too.
    last: Option<Origin>,
    messages: Vec<Message>,
}

impl Gathered {
    pub(super) fn new(receiver: Receiver, probe: Option<Arc<Probe>>, ended: Ended) -> Self {
        Self { receiver, probe, ended, copies: Copies::default(), last: None, messages: Vec::new() }
    }

    /// The channel of a message that is taken; `None` for another copy of it, and for a name that is not allowed.
    fn taken(&self, delivered: Delivered<'_>) -> Option<ChannelName> {
        let pattern = match delivered.pattern {
            Some(pattern) => Some(self.receiver.pattern(pattern)?),
            None => None,
        };
        let name = self.receiver.name(delivered.channel)?;
        self.copies.is_taken(&name, pattern).then_some(name)
    }
}

impl Messages for Gathered {
    fn take(&mut self, delivered: Delivered<'_>, payload: &[u8]) {
        let is_same =
            |last: &Origin| last.in_redis == delivered.channel && last.pattern.as_deref() == delivered.pattern;
        if !self.last.as_ref().is_some_and(is_same) {
            let on_probe = |probe: &Arc<Probe>| delivered.pattern.is_none() && probe.is_on(delivered.channel);
            if self.probe.as_ref().is_some_and(on_probe) {
                // Messages before the probe come first.
                self.flush();
                self.probe.iter().for_each(|probe| probe.take(payload));
                return;
            }
            let Some(name) = self.taken(delivered) else { return };
            let (pattern, in_redis) = (delivered.pattern.map(<[u8]>::to_vec), delivered.channel.to_vec());
            self.last = Some(Origin { pattern, in_redis, name });
        }
        if let Some(Origin { name, .. }) = &self.last {
            self.messages.extend(self.receiver.message(name.clone(), Bytes::copy_from_slice(payload)));
        }
    }

    fn too_long(&mut self, delivered: Delivered<'_>, bytes: usize) {
        self.flush();
        let Some(name) = self.taken(delivered) else { return };
        let why = format!("a message on {name} has {bytes} bytes, more than 16 times publish.max_message");
        self.receiver.sink.drop_invalid(&why);
        self.receiver.sink.lost(&name);
    }

    fn pattern_changed(&mut self, pattern: &[u8], subscribed: bool) {
        let Some(Ok(pattern)) = self.receiver.pattern(pattern).map(ChannelName::subscribable) else { return };
        if subscribed {
            self.copies.subscribed(&pattern);
        } else {
            self.copies.unsubscribed(&pattern);
        }
        // Another copy may be the one that is taken.
        self.last = None;
    }

    fn ended(&mut self, channel: &[u8]) -> bool {
        if lock(&self.ended.leaving).remove(channel) {
            return false;
        }
        // Messages before the end come first.
        self.flush();
        // An error means that the session has ended.
        let _ = self.ended.reports.send(channel.to_vec());
        true
    }

    fn broke_off(&mut self) {
        self.ended.broke_off.store(true, Ordering::Relaxed);
    }

    fn flush(&mut self) {
        if !self.messages.is_empty() {
            self.receiver.sink.publish(Batch::of(self.messages.drain(..)));
        }
    }
}
