//! Decides who may subscribe: the [`Authorizer`] interface, and one that allows everything. It subscribes to nothing and writes no
//! response.

use std::{future::Future, pin::Pin};

use hyper::HeaderMap;

use crate::name::ChannelName;

/// A client's request for channels.
#[derive(Debug, Clone, Copy)]
pub struct Subscriber<'a> {
    /// The channels and patterns ([`ChannelName::is_pattern`]) it asks for, none twice.
    pub channels: &'a [ChannelName],
    /// The query of its request, percent-encoded as it came.
    #[cfg_attr(not(test), expect(dead_code, reason = "the only authorizer outside of tests does not look at it"))]
    pub query: &'a str,
    /// The headers of its request.
    #[cfg_attr(not(test), expect(dead_code, reason = "the only authorizer outside of tests does not look at them"))]
    pub headers: &'a HeaderMap,
}

/// What a client may read, and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The channels and patterns, none twice.
    pub channels: Vec<ChannelName>,
    /// Who the client is; `None` if the authorizer does not know. The client keeps it until it ends, also over upgrades.
    pub identity: Option<Box<Identity>>,
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name by which the authorizer knows the client, such as a user's id.
    pub subject: String,
}

/// Why a client is refused, with a sentence for its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(not(test), expect(dead_code, reason = "the only authorizer outside of tests refuses nobody"))]
pub enum Denied {
    /// It has not said who it is, or can't prove it.
    #[error("{0}")]
    Unidentified(String),
    /// It may not read one of the channels.
    #[error("{0}")]
    Forbidden(String),
}

/// A decision under way.
pub type Authorizing<'a> = Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send + 'a>>;

/// Decides what a client may read. It is called at each join, also at a resume, since permissions may have ended.
pub trait Authorizer: Send + Sync {
    /// Decides on one request.
    ///
    /// # Errors
    /// [`Denied`] if the client is refused.
    fn authorize<'a>(&'a self, subscriber: Subscriber<'a>) -> Authorizing<'a>;
}

/// Allows anyone to read any channel.
#[derive(Debug, Clone, Copy)]
pub struct Anyone;

impl Authorizer for Anyone {
    fn authorize<'a>(&'a self, subscriber: Subscriber<'a>) -> Authorizing<'a> {
        Box::pin(async move { Ok(Grant { channels: subscriber.channels.to_vec(), identity: None }) })
    }
}
