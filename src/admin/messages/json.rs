//! Parses JSON: one publish, a list of them, or one on each line. It publishes nothing.

use std::{cell::Cell, fmt};

use serde::{
    Deserializer as _,
    de::{DeserializeSeed as _, Error as _, SeqAccess, Visitor},
};
use serde_json::Deserializer;

use super::{
    Request, Shape,
    batch::{Batch, Limits},
    error::BodyError,
    item::{Item, ItemSeed},
};

/// JSON: one publish, or an array of them.
pub(in crate::admin) fn from_json(body: &[u8], limits: Limits) -> Result<Request, BodyError> {
    if body.trim_ascii_start().starts_with(b"[") {
        return from_list(body, limits);
    }
    let mut batch = Batch::new(limits);
    let (_, key) = item(body, limits)?.add_to(&mut batch)?;
    Ok(batch.into_request(key.map(String::into_bytes), Shape::One))
}

/// NDJSON: a publish on each line.
pub(in crate::admin) fn from_lines(body: &[u8], limits: Limits) -> Result<Request, BodyError> {
    let mut list = List::new(limits);
    for line in body.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        list.add(item(line, limits))?;
    }
    Ok(list.into_request(Shape::Lines))
}

fn from_list(body: &[u8], limits: Limits) -> Result<Request, BodyError> {
    let mut list = List::new(limits);
    let mut refusal = None;
    let mut deserializer = Deserializer::from_slice(body);
    let visitor = ListVisitor { list: &mut list, refusal: &mut refusal };
    let read = deserializer.deserialize_seq(visitor).and_then(|()| deserializer.end());
    match (refusal, read) {
        (Some(refusal), _) => Err(refusal),
        (None, Err(error)) => Err(BodyError::Json(error)),
        (None, Ok(())) => Ok(list.into_request(Shape::Array)),
    }
}

/// Reads one object.
fn item(body: &[u8], limits: Limits) -> Result<Item<'_>, BodyError> {
    let too_much = Cell::new(false);
    let mut deserializer = Deserializer::from_slice(body);
    let item = ItemSeed { limits, too_much: &too_much }.deserialize(&mut deserializer);
    match item.and_then(|item| deserializer.end().map(|()| item)) {
        Ok(item) => Ok(item),
        Err(_) if too_much.get() => Err(BodyError::TooMuch(limits.longest_body())),
        Err(error) => Err(BodyError::Json(error)),
    }
}

/// The items of a list so far. If one of them is invalid, the whole request is refused, so that all messages are published or none.
struct List {
    batch: Batch,
    limits: Limits,
    key: Option<String>,
    /// Number of items.
    count: usize,
}

impl List {
    fn new(limits: Limits) -> Self {
        Self { batch: Batch::new(limits), limits, key: None, count: 0 }
    }

    /// Adds an item; `item` may be the reason why it can't be read.
    fn add(&mut self, item: Result<Item<'_>, BodyError>) -> Result<(), BodyError> {
        let index = self.count;
        let at = |cause| match cause {
            BodyError::TooMuch(_) => cause,
            _ => BodyError::At { index, cause: Box::new(cause) },
        };
        let (messages, key) = item.and_then(|item| item.add_to(&mut self.batch)).map_err(at)?;
        if messages > 1 {
            let several = serde_json::Error::custom("in a list, each publish names one channel");
            return Err(at(BodyError::Json(several)));
        }
        self.key = self.key.take().or(key);
        self.count += 1;
        Ok(())
    }

    fn into_request(self, shape: Shape) -> Request {
        self.batch.into_request(self.key.map(String::into_bytes), shape)
    }
}

/// Reads a JSON array into a list, one item after the other.
struct ListVisitor<'a> {
    list: &'a mut List,
    /// Set where the error of the array has another reason than its JSON.
    refusal: &'a mut Option<BodyError>,
}

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects with channel and message")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let limits = self.list.limits;
        let too_much = Cell::new(false);
        let mut refuse = |refusal: BodyError| {
            let error = A::Error::custom(&refusal);
            *self.refusal = Some(refusal);
            error
        };
        loop {
            match array.next_element_seed(ItemSeed { limits, too_much: &too_much }) {
                Ok(Some(item)) => self.list.add(Ok(item)).map_err(&mut refuse)?,
                Ok(None) => return Ok(()),
                Err(_) if too_much.get() => return Err(refuse(BodyError::TooMuch(limits.longest_body()))),
                Err(error) => return Err(error),
            }
        }
    }
}
