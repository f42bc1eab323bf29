//! Finds where to begin to read a stream after a start: so far back that the histories are filled. It delivers nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{RedisResult, Value, aio::MultiplexedConnection};

use super::{ask, values};
use crate::cursor::EntryId;

/// Estimated memory of an event beside its fields, in bytes.
const EVENT_BYTES: usize = 300;
/// Bytes of entries in one answer, and the bounds of their number.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ENTRIES: (usize, usize) = (16, 4096);

/// How much of a stream's end is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Most bytes of events.
    pub(super) bytes: usize,
    /// Entries older than this are not wanted.
    pub(super) age: Duration,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begin {
    /// The last entry that is not wanted, or was removed.
    pub(super) since: EntryId,
    /// The stream's last entry.
    pub(super) until: EntryId,
    /// How many entries had been added to the stream when `since` was. `None`: the server is older than Redis 7.0.
    pub(super) added: Option<u64>,
}

/// Finds where to begin to read the stream `key`.
///
/// # Errors
/// The key holds something else, the user may not read it, or the connection is lost.
pub(super) async fn find(commands: &mut MultiplexedConnection, key: &str, wanted: Wanted) -> RedisResult<Begin> {
    let Some(info) = ask::info(commands, key).await? else {
        return Ok(Begin { since: EntryId::ZERO, until: EntryId::ZERO, added: Some(0) });
    };
    let oldest = oldest(wanted.age);
    let until = info.generated;
    let mut all = 0;
    let added = |all| info.added.and_then(|added: u64| added.checked_sub(all));
    let (mut to, mut left, mut count) = (until, wanted.bytes, PAGE_ENTRIES.0);
    loop {
        let mut page = redis::cmd("XREVRANGE");
        page.arg(key).arg(to.to_string()).arg("-").arg("COUNT").arg(count);
        let page: Value = page.query_async(commands).await?;
        let (mut entries, mut bytes) = (0, 0);
        for entry in values::entries(&page) {
            let weight = entry.len() + EVENT_BYTES;
            if weight > left || entry.id.millis < oldest {
                return Ok(Begin { since: entry.id, until, added: added(all) });
            }
            left -= weight;
            (entries, bytes) = (entries + 1, bytes + weight);
            all += 1;
            to = entry.id.before();
        }
        if entries < count {
            break;
        }
        count = (PAGE_BYTES / (bytes / entries)).clamp(PAGE_ENTRIES.0, PAGE_ENTRIES.1);
    }
    // All of it is wanted. `to` stands right before the first entry. What was removed before that is unknown, unless nothing was.
    let added = added(all);
    Ok(Begin { since: if added == Some(0) { EntryId::ZERO } else { to }, until, added })
}

/// The milliseconds since 1970 before which an entry is too old.
fn oldest(age: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(u64::MAX)
}
