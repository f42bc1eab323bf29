//! ssecast as an operating system process: how it starts, its user, its sockets, log, signals and notifications. Knows nothing of
//! HTTP or events.

pub mod inherit;
pub mod log;
pub mod stderr;
pub mod memory;
pub mod pidfile;
pub mod listen;
pub mod sockets;
pub mod limits;
pub mod daemon;
pub mod privileges;
pub mod signals;
pub mod notify;
pub mod control_channel;
pub mod supervisor;
mod owned_files;
