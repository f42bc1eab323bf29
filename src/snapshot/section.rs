//! The container format of a snapshot: sections, each with a tag, a version and bytes. It does not know what the bytes mean.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `SSECSNAP` |
//! | 2 | a section's tag; with [`CRITICAL`] set, a reader that does not know the section or its version must refuse the snapshot |
//! | 2 | the section's version |
//! | 8 | its length, in bytes |
//! | … | its bytes; then the next section |
//!
//! Numbers are little-endian.

use serde::{Serialize, de::DeserializeOwned};

use super::SnapshotError;

/// The first bytes of every snapshot.
const MAGIC: &[u8; 8] = b"SSECSNAP";
/// The bit of a tag that marks a section without which the snapshot can't be used.
pub(super) const CRITICAL: u16 = 0x8000;
const HEADER: usize = 2 + 2 + 8;

/// Writes sections.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Self {
        Self(MAGIC.to_vec())
    }

    /// Appends a section that holds `value`.
    pub(super) fn section(mut self, tag: u16, version: u16, value: &impl Serialize) -> Result<Self, SnapshotError> {
        self.0.extend(tag.to_le_bytes());
        self.0.extend(version.to_le_bytes());
        let length_at = self.0.len();
        self.0.extend([0; 8]);
        postcard::to_io(value, &mut self.0).map_err(|source| SnapshotError::Section { tag, source })?;
        let length = (self.0.len() - length_at - 8) as u64;
        self.0[length_at..length_at + 8].copy_from_slice(&length.to_le_bytes());
        Ok(self)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// A section of a snapshot.
#[derive(Debug, Clone, Copy)]
struct Section<'a> {
    tag: u16,
    version: u16,
    bytes: &'a [u8],
}

/// The sections of a snapshot that this program knows.
#[derive(Debug)]
pub(super) struct Reader<'a>(Vec<Section<'a>>);

impl<'a> Reader<'a> {
    /// Splits a snapshot into sections. `known` are the tags that this program knows, with their highest version.
    ///
    /// # Errors
    /// The bytes are no snapshot or are cut off; a section is there twice; a critical section is unknown.
    pub(super) fn new(bytes: &'a [u8], known: &[(u16, u16)]) -> Result<Self, SnapshotError> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::NoSnapshot)?;
        let mut sections: Vec<Section<'a>> = Vec::new();
        while !rest.is_empty() {
            let (header, after) = rest.split_at_checked(HEADER).ok_or(SnapshotError::CutOff)?;
            let tag = u16::from_le_bytes([header[0], header[1]]);
            let version = u16::from_le_bytes([header[2], header[3]]);
            let mut length = [0; 8];
            length.copy_from_slice(&header[4..]);
            let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| SnapshotError::CutOff)?;
            let (bytes, after) = after.split_at_checked(length).ok_or(SnapshotError::CutOff)?;
            rest = after;
            if sections.iter().any(|section| section.tag == tag) {
                return Err(SnapshotError::Twice(tag));
            }
            let is_known = known.iter().any(|&(known, highest)| known == tag && (1..=highest).contains(&version));
            if is_known {
                sections.push(Section { tag, version, bytes });
            } else if tag & CRITICAL != 0 {
                return Err(SnapshotError::Unknown { tag, version });
            }
        }
        Ok(Self(sections))
    }

    /// Decodes the section's value.
    ///
    /// # Errors
    /// The section is missing or can't be decoded, for example because of an enum's variant that this program does not know.
    pub(super) fn read<T: DeserializeOwned>(&self, tag: u16) -> Result<T, SnapshotError> {
        self.read_if_present(tag)?.ok_or(SnapshotError::Missing(tag))
    }

    /// Decodes the value of a section that may be missing.
    ///
    /// # Errors
    /// As [`Reader::read`], except that the section may be missing.
    pub(super) fn read_if_present<T: DeserializeOwned>(&self, tag: u16) -> Result<Option<T>, SnapshotError> {
        let Some(section) = self.0.iter().find(|section| section.tag == tag) else { return Ok(None) };
        debug_assert!(section.version > 0, "checked by `new`");
        let (value, rest) =
            postcard::take_from_bytes(section.bytes).map_err(|source| SnapshotError::Section { tag, source })?;
        if rest.is_empty() { Ok(Some(value)) } else { Err(SnapshotError::Left { tag, left: rest.len() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[(u16, u16)] = &[(1, 1), (CRITICAL | 2, 3)];

    fn write(sections: &[(u16, u16)]) -> Vec<u8> {
        let write = |writer: Writer, &(tag, version): &(u16, u16)| writer.section(tag, version, &"held").unwrap();
        sections.iter().fold(Writer::new(), write).finish()
    }

    #[test]
    fn unknown_sections_are_skipped_unless_they_are_critical() {
        let bytes = write(&[(77, 1), (1, 9), (CRITICAL | 2, 3)]);
        let reader = Reader::new(&bytes, KNOWN).unwrap();
        assert_eq!(reader.read::<String>(CRITICAL | 2).unwrap(), "held");
        assert!(matches!(reader.read::<String>(1), Err(SnapshotError::Missing(1))), "a later version is skipped");
        for unknown in [(CRITICAL | 77, 1), (CRITICAL | 2, 4), (CRITICAL | 2, 0)] {
            let error = Reader::new(&write(&[unknown]), KNOWN).unwrap_err();
            assert!(matches!(error, SnapshotError::Unknown { .. }), "{error}");
        }
    }

    #[test]
    fn a_damaged_snapshot_is_refused() {
        let whole = write(&[(1, 1), (CRITICAL | 2, 1)]);
        let section = HEADER + "held".len() + 1;
        for length in 0..whole.len() {
            let cut = Reader::new(&whole[..length], KNOWN);
            assert_eq!(cut.is_ok(), length >= 8 && (length - 8) % section == 0, "cut at {length}");
        }
        assert!(matches!(Reader::new(&write(&[(1, 1), (1, 1)]), KNOWN), Err(SnapshotError::Twice(1))));
        let reader = Reader::new(&whole, KNOWN).unwrap();
        assert!(matches!(reader.read::<u8>(1), Err(SnapshotError::Left { .. })));
        assert!(matches!(reader.read::<Vec<(u64, u64)>>(1), Err(SnapshotError::Section { .. })));
    }
}
