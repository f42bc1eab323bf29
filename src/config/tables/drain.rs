//! `[drain]`.

use std::time::Duration;

use crate::config::{table::table, values::duration};

table! {
    /// `[drain]`: how streams end when the daemon stops.
    pub struct Drain from [drain] {
        /// When the daemon stops, clients are asked to reconnect spread over this time.
        pub spread: Duration = duration("10s");
    }
}
