//! Turns what Redis sends into messages, on the task that reads the connection. It has no queue of its own.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, mpsc::UnboundedSender};

use super::{probe::Probe, tap::Messages, wire};
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
    /// Notified when the connection is closed.
    gone: Arc<Notify>,
}

impl Receiver {
    pub(super) fn new(sink: Sink, prefix: String, gone: Arc<Notify>) -> Self {
        Self { sink, prefix, gone }
    }

    /// Takes what the library has read.
    pub(super) fn receive(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message => {
                let Ok([Value::BulkString(channel), Value::BulkString(payload)]) = <[Value; 2]>::try_from(push.data)
                else {
                    return self.sink.drop_invalid(&"Redis sent a message that is not a channel and a payload");
                };
                if let Some(name) = self.name(&channel)
                    && let Some(message) = self.message(name, payload.into())
                {
                    self.sink.publish(Batch::of([message]));
                }
            }
            PushKind::Disconnection => self.gone.notify_one(),
            _ => {} // Confirmations are the answers of their commands.
        }
    }

    fn name(&self, in_redis: &[u8]) -> Option<ChannelName> {
        let name = in_redis.strip_prefix(self.prefix.as_bytes())?;
        ChannelName::from_bytes(name).map_err(|why| self.sink.drop_invalid(&why)).ok()
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

/// The messages of one read.
pub(super) struct Gathered {
    receiver: Receiver,
    /// `None`: there is none on this connection.
    probe: Option<Arc<Probe>>,
    ended: Ended,
    /// The last message's channel, by its name in Redis and here: the next message is often on the same channel.
    name: Option<(Vec<u8>, ChannelName)>,
    messages: Vec<Message>,
}

impl Gathered {
    pub(super) fn new(receiver: Receiver, probe: Option<Arc<Probe>>, ended: Ended) -> Self {
        Self { receiver, probe, ended, name: None, messages: Vec::new() }
    }
}

impl Messages for Gathered {
    fn take(&mut self, channel: &[u8], payload: &[u8]) {
        if self.name.as_ref().is_none_or(|(in_redis, _)| in_redis != channel) {
            if let Some(probe) = self.probe.clone().filter(|probe| probe.is_on(channel)) {
                // Messages before the probe come first.
                self.flush();
                return probe.take(payload);
            }
            self.name = self.receiver.name(channel).map(|name| (channel.to_vec(), name));
        }
        if let Some((_, name)) = &self.name {
            self.messages.extend(self.receiver.message(name.clone(), Bytes::copy_from_slice(payload)));
        }
    }

    fn too_long(&mut self, channel: &[u8], bytes: usize) {
        self.flush();
        let Some(name) = self.receiver.name(channel) else { return };
        let why = format!("a message on {name} has {bytes} bytes, more than 16 times publish.max_message");
        self.receiver.sink.drop_invalid(&why);
        self.receiver.sink.lost(&name);
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
