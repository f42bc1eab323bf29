//! The listening sockets: bound with mode and group, and never taken from a process that still answers on them. It accepts nothing.

mod bind;
mod error;
mod listener;

pub use self::{
    bind::bind,
    error::ListenError,
    listener::{Listener, ListeningSocket},
};
