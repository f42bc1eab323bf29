//! Hot upgrade: a new process takes over every descriptor and the whole state of this one. No connection is closed.

pub(super) mod phase;
pub(super) mod receiver;
pub(super) mod sender;

pub use self::{receiver::UpgradeReceiver, sender::Relaunch};
