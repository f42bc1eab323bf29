//! Hot upgrade: a new process takes over every descriptor and the state of this one.

pub(super) mod deferred;
pub(super) mod receiver;
pub(super) mod sender;

pub(super) use self::{deferred::DeferredRequests, receiver::InheritedState};
pub use self::{receiver::UpgradeReceiver, sender::Relaunch};
