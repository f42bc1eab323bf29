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
/// The response to a refused client: 401 if it has not identified itself, else 403.
pub(super) async fn authorize(
    authorizer: &dyn Authorizer,
    request: &SubscribeRequest,
    query: &str,
    headers: &HeaderMap,
) -> Result<Grant, Reply> {
    let subscriber = Subscriber { channels: &request.channels, query, headers };
    authorizer.authorize(subscriber).await.map_err(|denied| {
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
        access::{Anyone, Authorizing},
        config::Stream,
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
}
