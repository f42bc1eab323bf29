//! Reads one publish in JSON: an object with the fields of a publish and no others. It knows no list.

use std::{borrow::Cow, cell::Cell, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    batch::{Batch, Limits},
    checks::{self, FIELDS},
    error::BodyError,
};

/// A publish in JSON.
#[derive(Default)]
pub(super) struct Item<'a> {
    channels: Names<'a>,
    message: Option<&'a RawValue>,
    event: Option<String>,
    key: Option<String>,
    durable: Option<bool>,
}

/// The names of channels.
#[derive(Default)]
enum Names<'a> {
    #[default]
    Missing,
    One(Cow<'a, str>),
    Several(Vec<String>),
}

impl Names<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Missing => 0,
            Self::One(_) => 1,
            Self::Several(names) => names.len(),
        }
    }
}

impl Item<'_> {
    /// Adds its messages to `batch`. Returns how many there are, and the key.
    pub(super) fn add_to(self, batch: &mut Batch) -> Result<(usize, Option<String>), BodyError> {
        let count = self.channels.count();
        if count == 0 {
            return Err(BodyError::Missing("channel"));
        }
        let event = checks::event_type(self.event.unwrap_or_default().as_bytes())?;
        let message = self.message.ok_or(BodyError::Missing("message"))?.get();
        // Publish the text of a string, and any other value exactly as it is written.
        let data = match message.starts_with('"') {
            true => Bytes::from(serde_json::from_str::<String>(message).map_err(BodyError::Json)?),
            false => Bytes::copy_from_slice(message.as_bytes()),
        };
        let durable = self.durable.unwrap_or(true);
        let mut add = |name: &str| batch.push(checks::channel(name.as_bytes())?, event.clone(), data.clone(), durable);
        match &self.channels {
            Names::Missing => {}
            Names::One(name) => add(name)?,
            Names::Several(names) => names.iter().try_for_each(|name| add(name))?,
        }
        Ok((count, self.key))
    }
}

/// Reads an [`Item`].
pub(super) struct ItemSeed<'s> {
    pub(super) limits: Limits,
    /// Set where the item's error means [`BodyError::TooMuch`].
    pub(super) too_much: &'s Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for ItemSeed<'_> {
    type Value = Item<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ItemSeed<'_> {
    type Value = Item<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with channel and message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item<'de>, A::Error> {
        let mut item = Item::default();
        while let Some(field) = map.next_key()? {
            match field {
                Field::Channel => item.channels = map.next_value_seed(NamesSeed(&self))?,
                Field::Message => item.message = Some(map.next_value()?),
                Field::Event => item.event = map.next_value()?,
                Field::Key => item.key = map.next_value()?,
                Field::Durable => item.durable = map.next_value()?,
            }
        }
        Ok(item)
    }
}

/// A field's name.
enum Field {
    Channel,
    Message,
    Event,
    Key,
    Durable,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(FieldVisitor)
    }
}

struct FieldVisitor;

impl Visitor<'_> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Field, E> {
        match name {
            "channel" => Ok(Field::Channel),
            "message" => Ok(Field::Message),
            "event" => Ok(Field::Event),
            "key" => Ok(Field::Key),
            "durable" => Ok(Field::Durable),
            other => Err(E::custom(checks::unknown(other, &FIELDS))),
        }
    }
}

/// Reads [`Names`]: a string, a list of strings, or null for none.
struct NamesSeed<'a, 's>(&'a ItemSeed<'s>);

impl<'de> DeserializeSeed<'de> for NamesSeed<'_, '_> {
    type Value = Names<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Names<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NamesSeed<'_, '_> {
    type Value = Names<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a channel's name as a string, or a list of such strings")
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Names<'de>, E> {
        Ok(Names::One(Cow::Borrowed(name)))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Names<'de>, E> {
        Ok(Names::One(Cow::Owned(name.to_owned())))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Names<'de>, E> {
        Ok(Names::Missing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Names<'de>, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = list.next_element()? {
            names.push(name);
            if let Err(error) = self.0.limits.check_events(names.len()) {
                self.0.too_much.set(true);
                return Err(A::Error::custom(error));
            }
        }
        Ok(Names::Several(names))
    }
}
