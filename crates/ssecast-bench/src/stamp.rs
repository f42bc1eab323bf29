//! The payload of an event: its run, its sequence number, and when it was sent. Publishes nothing.
//!
//! A payload is `sb RUN SEQUENCE MICROSECONDS ` and padding: ASCII, so that it is the same in a form, in JSON and in a
//! stream.

use std::time::{SystemTime, UNIX_EPOCH};

/// Fewest bytes of a payload: what a stamp may take.
pub const MIN_PAYLOAD_BYTES: usize = 48;

const MARK: &[u8] = b"sb ";

/// The stamp on one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Identifies the run, since others may publish on the same channels.
    pub run: u32,
    /// Counts a run's events from 0.
    pub sequence: u32,
    /// Unix time in microseconds.
    pub sent: u64,
}

impl Stamp {
    /// The payload, padded to `bytes` (at least [`MIN_PAYLOAD_BYTES`] are written to).
    #[must_use]
    pub fn payload(&self, bytes: usize) -> String {
        let mut payload = format!("sb {} {} {} ", self.run, self.sequence, self.sent);
        let padding = bytes.saturating_sub(payload.len());
        payload.extend(std::iter::repeat_n('x', padding));
        payload
    }

    /// Reads a payload's stamp; `None` if it is no bench's event.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let mut rest = payload.strip_prefix(MARK)?;
        let run = number(&mut rest)?;
        let sequence = number(&mut rest)?;
        let sent = number(&mut rest)?;
        Some(Self { run: run.try_into().ok()?, sequence: sequence.try_into().ok()?, sent })
    }
}

/// Unix time in microseconds.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Takes a number and the space after it off `bytes`.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
            b' ' if at > 0 => {
                *bytes = &bytes[at + 1..];
                return Some(value);
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_parses_to_its_stamp() {
        let stamp = Stamp { run: u32::MAX, sequence: u32::MAX, sent: now() };
        let payload = stamp.payload(128);
        assert_eq!(payload.len(), 128);
        assert_eq!(Stamp::read(payload.as_bytes()), Some(stamp));
        assert!(stamp.payload(0).len() <= MIN_PAYLOAD_BYTES);
        assert_eq!(Stamp::read(b"sb 1 2 "), None);
        assert_eq!(Stamp::read(b"[1,2,3]"), None);
    }
}
