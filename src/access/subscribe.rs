//! Decides who may subscribe: the [`Authorizer`] interface, and one that allows everything. It subscribes to nothing and writes no
//! response.

use std::{future::Future, pin::Pin};

use hyper::HeaderMap;

use crate::name::ChannelName;

/// A client's request for channels.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Subscriber<'a> {
    /// The channels and patterns ([`ChannelName::is_pattern`]) it asks for, none twice.
    pub channels: &'a [ChannelName],
    /// The query of its request, percent-encoded as it came (RFC 3986, 3.4).
    pub query: &'a str,
    /// The headers of its request.
    pub headers: &'a HeaderMap,
}

/// What a client may read, and who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// The channels and patterns, none twice.
    pub channels: Vec<ChannelName>,
    /// Who the client is; `None` if the authorizer does not know. The client keeps it until it ends, also over upgrades.
    pub identity: Option<Box<Identity>>,
}

impl Grant {
    /// A grant of these channels, to a client of which no more is known. A client gets those of the channels that it has asked for.
    /// One that gets none of them is refused.
    #[must_use]
    pub fn new(channels: impl Into<Vec<ChannelName>>) -> Self {
        Self { channels: channels.into(), identity: None }
    }

    /// The same grant, to a client that is known.
    #[must_use]
    pub fn with_identity(self, identity: Identity) -> Self {
        Self { identity: Some(Box::new(identity)), ..self }
    }
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    /// The name by which the authorizer knows the client, such as a user's id.
    pub subject: String,
}

impl Identity {
    /// The client with this name, such as a user's id.
    #[must_use]
    pub fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into() }
    }
}

/// Why a client is refused, with a sentence for its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// It has not said who it is, or can't prove it: 401 with the code `unauthorized` (RFC 9110, 15.5.2).
    #[error("{0}")]
    Unidentified(String),
    /// It may not read one of the channels: 403 with the code `forbidden` (RFC 9110, 15.5.4).
    #[error("{0}")]
    Forbidden(String),
}

/// A decision under way.
pub type Authorizing<'a> = Pin<Box<dyn Future<Output = Result<Grant, Denied>> + Send + 'a>>;

/// Decides what a client may read. It is called at each join, also at a resume, since permissions may have ended. Over an upgrade
/// clients keep what they were granted.
pub trait Authorizer: Send + Sync {
    /// Decides on one request. It must not block the thread, which serves other clients. Only the client waits for the answer.
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
