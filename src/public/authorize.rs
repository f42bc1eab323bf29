//! Asks the [`Authorizer`] what a client may read, and turns a refusal into a response. It subscribes to nothing.

use hyper::{HeaderMap, StatusCode};

use super::request::SubscribeRequest;
use crate::{
    access::{Authorizer, Denied, Grant, Subscriber},
    http::reply::{self, Reply},
};

/// Returns the grant for a request.
///
/// # Errors
/// The response to a refused client: 401 if it has not identified itself, else 403. A client that is granted none of the channels
/// that it asked for is refused as well.
pub(super) async fn authorize(
    authorizer: &dyn Authorizer,
    request: &SubscribeRequest,
    query: &str,
    headers: &HeaderMap,
) -> Result<Grant, Reply> {
    let subscriber = Subscriber { channels: &request.channels, query, headers };
    let granted = authorizer.authorize(subscriber).await.and_then(|grant| {
        let channels: Vec<_> = request.channels.iter().filter(|name| grant.channels.contains(name)).cloned().collect();
        if channels.is_empty() {
            return Err(Denied::Forbidden("none of these channels may be read: ask for others".to_owned()));
        }
        Ok(Grant { channels, ..grant })
    });
    granted.map_err(|denied| {
        let (status, code) = match &denied {
            Denied::Unidentified(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Denied::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
        };
        reply::error(status, code, &denied.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{Anyone, Authorizing, Identity},
        config::Stream,
        name::ChannelName,
        public::request::parse,
    };

    /// Allows only this channel, to a client with any token in a header or in its query.
    struct Only(&'static str);

    impl Authorizer for Only {
        fn authorize<'a>(&'a self, subscriber: Subscriber<'a>) -> Authorizing<'a> {
            Box::pin(async move {
                if !subscriber.headers.contains_key("authorization") && !subscriber.query.contains("token=") {
                    return Err(Denied::Unidentified("a token is missing".to_owned()));
                }
                match subscriber.channels.iter().find(|name| name.as_str() != self.0) {
                    Some(name) => Err(Denied::Forbidden(format!("channel {name} is not yours"))),
                    None => Ok(Grant { channels: subscriber.channels.to_vec(), identity: None }),
                }
            })
        }
    }

    #[tokio::test]
    async fn a_refusal_is_a_401_or_a_403_and_anyone_grants_all_channels() {
        let mut headers = HeaderMap::new();
        let request = parse("channels=a,b", &headers, &Stream::default()).unwrap();
        let grant = authorize(&Anyone, &request, "", &headers).await.unwrap();
        assert_eq!(grant.channels, request.channels);
        let refused = authorize(&Only("a"), &request, "", &headers).await.err().unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(
            authorize(&Only("a"), &parse("channels=a", &headers, &Stream::default()).unwrap(), "token=x", &headers)
                .await
                .is_ok()
        );
        headers.insert("authorization", "Bearer x".parse().unwrap());
        let refused = authorize(&Only("a"), &request, "", &headers).await.err().unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        let request = parse("channels=a", &headers, &Stream::default()).unwrap();
        assert!(authorize(&Only("a"), &request, "", &headers).await.is_ok());
    }

    /// Grants these channels, whatever is asked for.
    struct Grants(Vec<ChannelName>);

    impl Authorizer for Grants {
        fn authorize<'a>(&'a self, _: Subscriber<'a>) -> Authorizing<'a> {
            Box::pin(async move { Ok(Grant::new(self.0.clone()).with_identity(Identity::new("ann"))) })
        }
    }

    #[tokio::test]
    async fn a_client_gets_the_granted_channels_that_it_asked_for_each_once() {
        let name = |name| ChannelName::new(name).unwrap();
        let headers = HeaderMap::new();
        let request = parse("channels=a,b,c", &headers, &Stream::default()).unwrap();
        let some = Grants(vec![name("c"), name("x"), name("a"), name("c")]);
        let grant = authorize(&some, &request, "", &headers).await.unwrap();
        assert_eq!(grant.channels, [name("a"), name("c")]);
        assert_eq!(grant.identity.unwrap().subject, "ann");
        let refused = authorize(&Grants(vec![name("x")]), &request, "", &headers).await.err().unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    }
}
