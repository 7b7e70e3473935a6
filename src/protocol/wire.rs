//! The control messages' JSON: one pass that borrows, names the field that is
//! wrong, and allocates no more than the message is worth.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::monitoring;
use crate::task::Monitoring;

/// Most elements of a list or a map in a message. An empty string takes three
/// bytes of JSON and eight times that in memory, so a limit on the message
/// alone would not bound what it becomes.
const MAX_ELEMENTS: usize = 16_384;

/// The fields that each kind of message may have wrong; all others are
/// skipped without a look at their type.
pub(super) const STOP: &[&str] = &["id", "proplet_id"];
pub(super) const INVOKE: &[&str] = &["id", "proplet_id", "invocation_id", "inputs", "env"];
pub(super) const START: &[&str] = &[
    "id",
    "proplet_id",
    "state",
    "name",
    "file",
    "image_url",
    "inputs",
    "cli_args",
    "env",
    "parent_results",
    "daemon",
    "latent",
    "encrypted",
    "monitoring_profile",
];

/// The union of the control messages, borrowed from the payload.
#[derive(Default)]
pub(super) struct Wire<'a> {
    pub(super) id: Option<Cow<'a, str>>,
    pub(super) proplet_id: Option<Cow<'a, str>>,
    pub(super) invocation_id: Option<Cow<'a, str>>,
    /// None for anything that is no number from 0 to 255: a start is not
    /// refused for it.
    pub(super) state: Option<u8>,
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) file: Option<Cow<'a, str>>,
    pub(super) image_url: Option<Cow<'a, str>>,
    pub(super) inputs: Vec<String>,
    pub(super) cli_args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) parent_results: Option<&'a str>,
    pub(super) daemon: bool,
    pub(super) latent: bool,
    pub(super) encrypted: bool,
    pub(super) monitoring: Option<Monitoring>,
}

/// Deserializes the fields of this list. Written by hand because a derived
/// implementation would not say which field is wrong.
pub(super) struct Wanted(pub(super) &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Wanted {
    type Value = Wire<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Wire<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted {
    type Value = Wire<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire<'de>, A::Error> {
        let mut wire = Wire::default();
        while let Some(Text(key)) = map.next_key()? {
            if !self.0.contains(&key.as_ref()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match key.as_ref() {
                "id" => wire.id = text(&mut map, &key)?,
                "proplet_id" => wire.proplet_id = text(&mut map, &key)?,
                "invocation_id" => wire.invocation_id = text(&mut map, &key)?,
                "state" => wire.state = map.next_value::<&RawValue>()?.get().parse().ok(),
                "name" => wire.name = text(&mut map, &key)?,
                "file" => wire.file = text(&mut map, &key)?,
                "image_url" => wire.image_url = text(&mut map, &key)?,
                "inputs" => wire.inputs = inputs(&mut map, &key)?,
                "cli_args" => wire.cli_args = value::<_, List<String>>(&mut map, &key)?.0,
                "env" => wire.env = env(&mut map, &key)?,
                "parent_results" => wire.parent_results = parent_results(map.next_value()?),
                "daemon" => wire.daemon = value(&mut map, &key)?,
                "latent" => wire.latent = value(&mut map, &key)?,
                "encrypted" => wire.encrypted = value(&mut map, &key)?,
                "monitoring_profile" => wire.monitoring = monitoring::read(map.next_value()?),
                other => unreachable!("`{other}` is in a list of fields but not read"),
            }
        }
        Ok(wire)
    }
}

/// The object as it stands in the message; none if it is empty or none at all,
/// since a start is not refused for it.
fn parent_results(value: &RawValue) -> Option<&str> {
    let json = value.get();
    let is_object = json.starts_with('{') && json != "{}";
    is_object.then_some(json)
}

/// The next value; `null` is the default, as Go writes empty lists and maps.
fn value<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(
    map: &mut A,
    key: &str,
) -> Result<T, A::Error> {
    match map.next_value::<Option<T>>() {
        Ok(value) => Ok(value.unwrap_or_default()),
        // serde_json takes the position off the end of the text again.
        Err(error) => Err(de::Error::custom(format_args!("`{key}`: {error}"))),
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<Option<Cow<'de, str>>, A::Error> {
    Ok(value::<_, Option<Text<'de>>>(map, key)?.map(|text| text.0))
}

/// A string, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

fn inputs<'de, A: MapAccess<'de>>(map: &mut A, key: &str) -> Result<Vec<String>, A::Error> {
    let elements = value::<_, List<&RawValue>>(map, key)?.0.into_iter().enumerate();
    let texts = elements.map(|(n, element)| {
        scalar(element)
            .map_err(|e| de::Error::custom(format_args!("`{key}`: element {} is {e}", n + 1)))
    });
    texts.collect()
}

fn env<'de, A: MapAccess<'de>>(
    map: &mut A,
    key: &str,
) -> Result<BTreeMap<String, String>, A::Error> {
    let entries = value::<_, Environment<'de>>(map, key)?.0.into_iter();
    let texts = entries.map(|(name, value)| match scalar(value) {
        Ok(text) => Ok((name, text)),
        Err(e) => Err(de::Error::custom(format_args!("`{key}`: the value of {name:?} is {e}"))),
    });
    texts.collect()
}

/// The text of a string; a number or a boolean as it stands in the message,
/// since a large integer would lose digits on any other way.
///
/// # Errors
///
/// What it is instead.
fn scalar(value: &RawValue) -> Result<String, &'static str> {
    let json = value.get();
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json)
            .map_err(|_| "a string with an escape that stands for no character"),
        Some(b'-' | b'0'..=b'9' | b't' | b'f') => Ok(json.to_owned()),
        Some(b'n') => Err("null; give a string, a number or a boolean"),
        Some(b'[') => Err("a list; give a string, a number or a boolean"),
        _ => Err("an object; give a string, a number or a boolean"),
    }
}

/// A list of at most [`MAX_ELEMENTS`].
struct List<T>(Vec<T>);

/// A map of at most [`MAX_ELEMENTS`].
#[derive(Default)]
struct Environment<'a>(BTreeMap<String, &'a RawValue>);

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List(Vec::new())
    }
}

fn too_many<E: de::Error>() -> E {
    E::custom(format_args!("more than {MAX_ELEMENTS} elements"))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of strings")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if list.len() == MAX_ELEMENTS {
                        return Err(too_many());
                    }
                    list.push(element);
                }
                Ok(List(list))
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Environment<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EnvironmentVisitor;
        impl<'de> Visitor<'de> for EnvironmentVisitor {
            type Value = Environment<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with strings as values")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Environment<'de>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if entries.len() == MAX_ELEMENTS {
                        return Err(too_many());
                    }
                    entries.insert(name, value);
                }
                Ok(Environment(entries))
            }
        }
        deserializer.deserialize_map(EnvironmentVisitor)
    }
}

/// What can be read of a message that did not fit.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Envelope {
    pub(super) id: IfString,
    pub(super) proplet_id: IfString,
    pub(super) invocation_id: IfString,
}

/// The string, or `None` for anything else.
#[derive(Default)]
pub(super) struct IfString(pub(super) Option<String>);

impl<'de> Deserialize<'de> for IfString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;
        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = IfString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_str<E>(self, text: &str) -> Result<IfString, E> {
                Ok(IfString(Some(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<IfString, E> {
                Ok(IfString(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<IfString, E> {
                Ok(IfString(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<IfString, E> {
                Ok(IfString(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<IfString, E> {
                Ok(IfString(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<IfString, E> {
                Ok(IfString(None))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<IfString, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(IfString(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IfString, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(IfString(None))
            }
        }
        deserializer.deserialize_any(AnyVisitor)
    }
}
