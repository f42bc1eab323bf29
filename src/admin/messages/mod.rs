//! Parses the body of `POST /publish`, in each of its forms, into messages. No I/O.

mod batch;
mod checks;
mod error;
mod form;
mod item;
mod json;
mod raw;
#[cfg(test)]
mod tests;

pub(super) use self::{
    batch::Limits,
    error::BodyError,
    form::{fields, from_form},
    json::{from_json, from_lines},
    raw::from_raw,
};
use crate::event::Message;

/// What a request asks to publish.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) messages: Vec<Message>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) shape: Shape,
}

/// The form of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One result for the request.
    One,
    /// A JSON array.
    Array,
    /// A line of JSON each.
    Lines,
}
