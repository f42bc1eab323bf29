//! `[history]`.

use std::time::Duration;

use crate::config::{
    table::table,
    values::{count, duration, size},
};

table! {
    /// `[history]`: the events that are kept for clients that come back.
    pub struct History from [history] {
        /// Most events kept of a channel.
        pub messages: usize = count(100);
        /// How long an event is kept.
        pub age: Duration = duration("1h");
        /// Most bytes kept of all channels together.
        pub bytes: usize = size("64MiB");
        /// How long a channel stays subscribed after its last client has left.
        pub linger: Duration = duration("60s");
        /// How far the clocks of two nodes may differ.
        pub skew: Duration = duration("2s");
        /// How long events beyond `messages` are kept for clients that are behind.
        pub stretch: Duration = duration("5s");
    }
}
