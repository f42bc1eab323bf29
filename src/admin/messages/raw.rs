//! Takes a body as one message, for the channel in the path. It decodes nothing of the body.

use bytes::Bytes;

use super::{
    Request, Shape,
    batch::{Batch, Limits},
    checks,
    error::BodyError,
    form::fields,
};

/// The query parameters of a publish whose body is the message.
const PARAMETERS: [&str; 3] = ["event", "key", "durable"];

/// The body as one message, for the channel in the path.
pub(in crate::admin) fn from_raw(name: &[u8], query: &str, body: Bytes, limits: Limits) -> Result<Request, BodyError> {
    let channel = checks::channel(name)?;
    let (mut event, mut key, mut durable) = (None, None, true);
    for (name, value) in fields(query.as_bytes()) {
        match &name[..] {
            b"event" => event = checks::event_type(&value)?,
            b"key" => key = Some(value),
            b"durable" => durable = checks::durable(&value)?,
            other => {
                return Err(BodyError::UnknownField(checks::unknown(&String::from_utf8_lossy(other), &PARAMETERS)));
            }
        }
    }
    let mut batch = Batch::new(limits);
    batch.push(channel, event, checks::text(body)?, durable)?;
    Ok(batch.into_request(key, Shape::One))
}
