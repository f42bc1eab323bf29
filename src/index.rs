//! Indexes of tables, kept in 32 bits since each client has several. The only place that converts to them.

/// The index in 32 bits.
///
/// # Panics
/// If it is 2^32 or more. No table gets so long: each entry is a client, a channel or a group of clients, which take more than 50
/// bytes, and a machine has not enough memory and file descriptors for so many.
#[must_use]
pub fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or_else(|_| panic!("a table of clients or channels has more than 2^32 entries"))
}
