//! Which node of a Redis Cluster owns a channel or key: hash slots, as the Redis Cluster specification defines them. It opens no
//! connection.

use std::collections::BTreeMap;

use redis::Value;

use super::url::Address;

/// Number of hash slots of a cluster.
const SLOTS: u16 = 16384;

/// The slot of a channel or key, from its name in Redis.
pub(in crate::source) fn slot(name: &[u8]) -> u16 {
    crc16(hashed(name)) % SLOTS
}

/// The part of a name that is hashed: the text in the first braces, if there are any with text between them.
fn hashed(name: &[u8]) -> &[u8] {
    let tag = memchr::memchr(b'{', name).map(|open| &name[open + 1..]);
    match tag.and_then(|rest| Some(&rest[..memchr::memchr(b'}', rest)?])) {
        Some(tag) if !tag.is_empty() => tag,
        _ => name,
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| (crc << 1) ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 })
    })
}

/// The owners of the slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::source) struct Slots {
    /// The first slot of each range, with its last slot and its owner.
    ranges: BTreeMap<u16, (u16, Address)>,
}

impl Slots {
    /// Reads the answer to CLUSTER SLOTS of the node at `asked`.
    pub(super) fn of(answer: &Value, asked: &Address) -> Self {
        let Value::Array(ranges) = answer else { return Self::default() };
        Self { ranges: ranges.iter().filter_map(|range| range_of(range, asked)).collect() }
    }

    /// The primary that owns a slot; `None` if none does.
    pub(in crate::source) fn owner(&self, slot: u16) -> Option<&Address> {
        let (_, (last, owner)) = self.ranges.range(..=slot).next_back()?;
        (slot <= *last).then_some(owner)
    }

    /// Every primary that owns a slot, each once.
    pub(in crate::source) fn primaries(&self) -> Vec<Address> {
        let mut all: Vec<Address> = self.ranges.values().map(|(_, owner)| owner.clone()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// How many slots no primary owns.
    pub(in crate::source) fn unowned(&self) -> u16 {
        SLOTS - self.ranges.iter().map(|(first, (last, _))| last - first + 1).sum::<u16>()
    }
}

/// A range: its first slot, its last one, and its primary with host and port.
fn range_of(range: &Value, asked: &Address) -> Option<(u16, (u16, Address))> {
    let Value::Array(fields) = range else { return None };
    let slot = |at: usize| match fields.get(at) {
        Some(Value::Int(slot)) => u16::try_from(*slot).ok().filter(|slot| *slot < SLOTS),
        _ => None,
    };
    let (first, last) = (slot(0)?, slot(1)?);
    let Some(Value::Array(primary)) = fields.get(2) else { return None };
    let Some(Value::Int(port)) = primary.get(1) else { return None };
    let host = match (primary.first(), asked) {
        (Some(Value::BulkString(host)), _) if !host.is_empty() => String::from_utf8(host.clone()).ok()?,
        // It does not know its own address: it is the one where it was asked.
        (_, Address::Tcp(host, _)) => host.clone(),
        _ => return None,
    };
    (first <= last).then_some((first, (last, Address::Tcp(host, u16::try_from(*port).ok()?))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!((slot(b"foo"), slot(b"bar"), slot(b"")), (12182, 5061, 0));
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(hashed(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hashed(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hashed(b"foo{bar}{zap}"), b"bar");
        assert_eq!(hashed(b"foo}{bar"), b"foo}{bar");
    }

    fn range(first: i64, last: i64, host: &str, port: i64) -> Value {
        let node = vec![Value::BulkString(host.into()), Value::Int(port), Value::BulkString(b"id".to_vec())];
        Value::Array(vec![Value::Int(first), Value::Int(last), Value::Array(node)])
    }

    #[test]
    fn a_slot_has_the_owner_that_the_cluster_names() {
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        let answer = Value::Array(vec![
            range(0, 100, "a", 1),
            range(101, 200, "", 2),
            range(300, 400, "a", 1),
            range(500, 20_000, "wrong", 3),
            Value::Nil,
        ]);
        let slots = Slots::of(&answer, &tcp("asked", 9));
        for (slot, owner) in [
            (0, Some(tcp("a", 1))),
            (100, Some(tcp("a", 1))),
            (101, Some(tcp("asked", 2))),
            (250, None),
            (300, Some(tcp("a", 1))),
            (401, None),
            (600, None),
        ] {
            assert_eq!(slots.owner(slot), owner.as_ref(), "{slot}");
        }
        assert_eq!(slots.primaries(), [tcp("a", 1), tcp("asked", 2)]);
        assert_eq!(slots.unowned(), SLOTS - 302);
        assert_eq!(Slots::of(&Value::Okay, &tcp("asked", 9)).unowned(), SLOTS);
    }

    proptest! {
        #[test]
        fn every_name_has_a_slot(name in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(slot(&name) < SLOTS);
        }
    }
}
