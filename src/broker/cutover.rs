//! Which of two processes delivers a source's messages during an upgrade: a pure state machine for each source. It knows no
//! lock and no queue.
//!
//! Both processes subscribe to a marker channel. Its message is the cut-over point: the predecessor delivers what precedes it,
//! the successor what follows it. After the marker the predecessor buffers messages, in case the upgrade fails. Before the
//! marker the successor discards them. Gaps are buffered and discarded like messages, so that they stay in their place.

use super::{journal::JournalReport, spec::Checkpoint, subscriptions::weight};
use crate::{event::Message, name::ChannelName};

/// Most bytes of one source's messages that are kept during an upgrade. What exceeds this is dropped, and reported by a gap.
const KEPT_BYTES: usize = 64 << 20;

/// A report of a source. The order of reports is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A message.
    Message(Message),
    /// The source was disconnected: messages between here and the next gap may have been lost.
    Loss,
    /// Messages of these channels may have been lost since the last loss.
    Gap(Vec<ChannelName>),
    /// One message of each of these channels was dropped.
    Dropped(Vec<ChannelName>),
    /// Messages of any channel were dropped here.
    Overflow,
    /// What a source reports about one of its journals.
    Journal(u8, JournalReport),
    /// How far a durable source has read: all its messages up to this checkpoint come before this input.
    Checkpoint(Checkpoint),
}

/// Whether a source delivers the marker's channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// There is no marker: this source has no cut-over point.
    None,
    /// The source was asked to subscribe, and has not answered.
    Asked,
    /// The source delivers it.
    Confirmed,
}

/// How this process treats the reports of a source. These are all states.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// No upgrade is under way: everything is forwarded.
    Serving,
    /// Predecessor, before the marker: everything is forwarded.
    Sending { marker: Marker },
    /// Predecessor, after the marker: everything is kept.
    Sent { kept: Kept },
    /// Successor, before the marker: everything is discarded. `lost`: the source was disconnected, so the marker
    /// may be lost.
    Receiving { marker: Marker, lost: bool },
    /// Successor, after the marker: everything is kept.
    Received { kept: Kept },
}

/// Reports that are kept, in order and bounded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    items: Vec<Item>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, item: Item) {
        if matches!(self.items.last(), Some(Item::Overflow)) {
            return;
        }
        self.bytes += match &item {
            Item::Message(message) => weight(message),
            Item::Gap(names) | Item::Dropped(names) => names.iter().map(|name| name.as_str().len() + 16).sum(),
            Item::Checkpoint(Checkpoint(bytes)) => bytes.len() + 16,
            Item::Loss | Item::Overflow | Item::Journal(..) => 0,
        };
        self.items.push(if self.bytes > KEPT_BYTES { Item::Overflow } else { item });
    }
}

impl Role {
    /// Takes what the source reports; returns it if it is to be forwarded now.
    pub(super) fn route(&mut self, item: Item) -> Option<Item> {
        match self {
            Self::Serving | Self::Sending { .. } => return Some(item),
            Self::Sent { kept } | Self::Received { kept } => kept.push(item),
            Self::Receiving { .. } => {}
        }
        None
    }

    /// An upgrade begins, and this process is the predecessor.
    pub(super) fn begin_sending(&mut self) {
        if let Self::Serving = self {
            *self = Self::Sending { marker: Marker::Asked };
        }
    }

    /// An upgrade begins, and this process is the successor.
    pub(super) fn begin_receiving(&mut self, marker: Marker) {
        if let Self::Serving = self {
            *self = Self::Receiving { marker, lost: false };
        }
    }

    /// The source delivers the marker's channel.
    pub(super) fn marker_confirmed(&mut self) {
        if let Some(marker) = self.marker_mut().filter(|marker| **marker == Marker::Asked) {
            *marker = Marker::Confirmed;
        }
    }

    /// The source may not deliver the marker's channel.
    pub(super) fn marker_refused(&mut self) {
        if let Some(marker) = self.marker_mut() {
            *marker = Marker::None;
        }
    }

    /// The marker has come.
    pub(super) fn marker_passed(&mut self) {
        match self {
            Self::Sending { .. } => *self = Self::Sent { kept: Kept::default() },
            // The predecessor delivers or reports everything before it.
            Self::Receiving { .. } => *self = Self::Received { kept: Kept::default() },
            Self::Serving | Self::Sent { .. } | Self::Received { .. } => {}
        }
    }

    /// Buffers everything from now on, with or without a marker: the predecessor is about to send its snapshot.
    pub(super) fn keep(&mut self) {
        if let Self::Serving | Self::Sending { .. } = self {
            *self = Self::Sent { kept: Kept::default() };
        }
    }

    /// The source was disconnected.
    pub(super) fn disconnected(&mut self) {
        match self {
            Self::Receiving { marker, lost } => {
                *lost = true;
                // It is asked for again when the source is reconnected.
                if *marker == Marker::Confirmed {
                    *marker = Marker::Asked;
                }
            }
            Self::Sending { marker: marker @ Marker::Confirmed } => *marker = Marker::Asked,
            Self::Sent { kept } | Self::Received { kept } => kept.push(Item::Loss),
            Self::Serving | Self::Sending { .. } => {}
        }
    }

    /// Everything is subscribed to. What was lost before this does not matter: the predecessor delivers it.
    pub(super) fn note_subscribed(&mut self) {
        if let Self::Receiving { lost, .. } = self {
            *lost = false;
        }
    }

    /// Ends the upgrade for this process, which serves from now on. Returns what was buffered.
    pub(super) fn finish(&mut self) -> Vec<Item> {
        match std::mem::replace(self, Self::Serving) {
            Self::Sent { kept } | Self::Received { kept } => kept.items,
            Self::Serving | Self::Sending { .. } | Self::Receiving { .. } => Vec::new(),
        }
    }

    /// Whether what the source reports is buffered.
    pub(super) fn is_keeping(&self) -> bool {
        matches!(self, Self::Sent { .. } | Self::Received { .. })
    }

    /// Whether the source was disconnected before the marker came.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Receiving { lost: true, .. })
    }

    /// Whether the source delivers the marker; [`Marker::None`] outside of an upgrade.
    pub(super) fn marker(&self) -> Marker {
        match self {
            Self::Sending { marker } | Self::Receiving { marker, .. } => *marker,
            Self::Sent { .. } | Self::Received { .. } => Marker::Confirmed,
            Self::Serving => Marker::None,
        }
    }

    fn marker_mut(&mut self) -> Option<&mut Marker> {
        match self {
            Self::Sending { marker } | Self::Receiving { marker, .. } => Some(marker),
            Self::Serving | Self::Sent { .. } | Self::Received { .. } => None,
        }
    }
}
