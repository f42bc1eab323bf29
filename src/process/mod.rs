//! ssecast as a process among others: its sockets and limits. Knows nothing of HTTP or events.

pub mod limits;
pub mod listen;
