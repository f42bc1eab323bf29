//! Decides who may publish and who may subscribe. It knows no socket and no route.

mod peer;
mod publish;
mod subscribe;

pub use self::{
    peer::Peer,
    publish::{Refused, may_publish},
    subscribe::{Anyone, Authorizer, Authorizing, Denied, Grant, Identity, Subscriber},
};
