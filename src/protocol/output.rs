//! What a guest wrote, as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::task::Captured;

/// A guest's output stream on the wire: a string if it is UTF-8, else
/// `{"base64": "…"}`, so that nothing is lost; a failure's has `error` as well.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
    /// The object of a federated round, or a value that other workers send.
    Json(serde_json::Value),
}

impl Default for Output {
    fn default() -> Output {
        Output::Text(String::new())
    }
}

impl Output {
    /// The bytes as the guest wrote them; other workers' values as JSON.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Output::Text(text) => text.into_bytes(),
            Output::Bytes(bytes) => bytes,
            Output::Json(serde_json::Value::Null) => Vec::new(),
            Output::Json(value) => value.to_string().into_bytes(),
        }
    }
}

impl From<Captured> for Output {
    fn from(captured: Captured) -> Output {
        match String::from_utf8(captured.bytes) {
            Ok(text) => Output::Text(text),
            Err(not_utf8) => Output::Bytes(not_utf8.into_bytes()),
        }
    }
}

#[derive(Serialize)]
struct Base64Object {
    base64: String,
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Output::Text(text) => serializer.serialize_str(text),
            Output::Bytes(bytes) => {
                Base64Object { base64: STANDARD.encode(bytes) }.serialize(serializer)
            }
            Output::Json(value) => value.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Output, D::Error> {
        Ok(match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Output::Text(text),
            serde_json::Value::Object(object)
                if object.keys().all(|key| key == "base64" || key == "error") =>
            {
                match object.get("base64").and_then(|value| value.as_str()) {
                    Some(symbols) => {
                        Output::Bytes(STANDARD.decode(symbols).map_err(de::Error::custom)?)
                    }
                    None => Output::Json(serde_json::Value::Object(object)),
                }
            }
            other => Output::Json(other),
        })
    }
}
