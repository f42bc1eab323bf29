//! Parses a form, and decodes the fields of forms and queries. It publishes nothing.

use super::{
    Request, Shape,
    batch::{Batch, Limits},
    checks::{self, FIELDS},
    error::BodyError,
};

/// A form: `channel`, which may be repeated, `message`, and perhaps `event`, `key` and `durable`.
pub(in crate::admin) fn from_form(body: &[u8], limits: Limits) -> Result<Request, BodyError> {
    let (mut channels, mut data, mut event, mut key, mut durable) = (Vec::new(), None, None, None, true);
    for (name, value) in fields(body) {
        match &name[..] {
            b"channel" | b"channel[]" => {
                channels.push(checks::channel(&value)?);
                limits.check_events(channels.len())?;
            }
            b"message" => data = Some(checks::text(value)?),
            b"event" => event = checks::event_type(&value)?,
            b"key" => key = Some(value),
            b"durable" => durable = checks::durable(&value)?,
            other => {
                return Err(BodyError::UnknownField(checks::unknown(&String::from_utf8_lossy(other), &FIELDS)));
            }
        }
    }
    if channels.is_empty() {
        return Err(BodyError::Missing("channel"));
    }
    let data = data.ok_or(BodyError::Missing("message"))?;
    let mut batch = Batch::new(limits);
    for channel in channels {
        batch.push(channel, event.clone(), data.clone(), durable)?;
    }
    Ok(batch.into_request(key, Shape::One))
}

/// Decodes the fields of `application/x-www-form-urlencoded`. They are bytes, since they may not be UTF-8.
pub(in crate::admin) fn fields(body: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let decode = |part: &[u8]| -> Vec<u8> {
        let spaced: Vec<u8> = part.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
        percent_encoding::percent_decode(&spaced).collect()
    };
    body.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (decode(&pair[..end]), decode(pair.get(end + 1..).unwrap_or_default()))
    })
}
