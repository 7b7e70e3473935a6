//! What the manager says to its workers: start, stop, invoke.
//!
//! All workers of a channel read the same topics, so decoding takes the
//! worker's own id and gives `None` for what is meant for another one: nothing
//! of such a message is copied. One pass over the JSON borrows the module's
//! Base64, which is by far the largest part, and decodes it once, into the
//! memory that the task keeps.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::DeserializeSeed as _;
use serde::ser::Serialize;

use super::wire::{Envelope, INVOKE, START, STOP, Wanted, Wire};
use crate::task::{Binary, ManagerState, ModuleSource, TaskId, TaskRequest};

/// Standard alphabet, with or without padding: people paste what their tools
/// print.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The longest `invocation_id` in bytes: an answer repeats it, and has to fit.
const MAX_INVOCATION_ID: usize = 1024;

/// Why a message could not be read. It is never for another worker: those are
/// `Ok(None)`, as far as the address can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// The task's id, if it could be read: the sender then deserves an answer.
    pub id: Option<TaskId>,
    /// The call's id, if the message is an `invoke` whose own could be read.
    pub invocation_id: Option<String>,
    /// What is wrong and where; it names the field.
    pub reason: String,
}

/// A call of a latent task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoke {
    /// The task.
    pub id: TaskId,
    /// The call, which the answer names.
    pub invocation_id: String,
    /// The arguments.
    pub inputs: Vec<String>,
    /// The environment.
    pub env: BTreeMap<String, String>,
}

/// Reads a `start` message; `None` if it is for a worker other than `own_id`.
///
/// `module_limit` is in bytes of the decoded module, and is held against the
/// length of the Base64 before anything is allocated for it.
pub fn decode_start(
    payload: &[u8],
    own_id: &str,
    module_limit: usize,
) -> Result<Option<TaskRequest>, Malformed> {
    let Some((id, wire)) = open(payload, own_id, START)? else {
        return Ok(None);
    };
    let module = match module(&wire, module_limit) {
        Ok(module) => module,
        Err(reason) => {
            return Err(Malformed { id: Some(id), invocation_id: None, reason });
        }
    };
    Ok(Some(TaskRequest {
        id,
        state: wire.state.map(ManagerState::from),
        name: wire.name.map(Cow::into_owned).unwrap_or_default(),
        module,
        inputs: wire.inputs,
        cli_args: wire.cli_args,
        env: wire.env,
        parent_results: wire.parent_results.map(str::to_owned),
        daemon: wire.daemon,
        latent: wire.latent,
        encrypted: wire.encrypted,
        monitoring: wire.monitoring,
    }))
}

/// Reads a `stop` message; `None` if it is for a worker other than `own_id`.
pub fn decode_stop(payload: &[u8], own_id: &str) -> Result<Option<TaskId>, Malformed> {
    Ok(open(payload, own_id, STOP)?.map(|(id, _)| id))
}

/// Reads an `invoke` message; `None` if it is for a worker other than `own_id`.
pub fn decode_invoke(payload: &[u8], own_id: &str) -> Result<Option<Invoke>, Malformed> {
    let Some((id, wire)) = open(payload, own_id, INVOKE)? else {
        return Ok(None);
    };
    match wire.invocation_id {
        Some(id) if id.len() > MAX_INVOCATION_ID => Err(Malformed {
            id: None,
            invocation_id: None,
            reason: format!(
                "`invocation_id` has {} bytes, more than {MAX_INVOCATION_ID}",
                id.len()
            ),
        }),
        Some(invocation_id) if !invocation_id.is_empty() => Ok(Some(Invoke {
            id,
            invocation_id: invocation_id.into_owned(),
            inputs: wire.inputs,
            env: wire.env,
        })),
        _ => Err(Malformed {
            id: Some(id),
            invocation_id: None,
            reason: "`invocation_id` is missing or empty, so the call can't be answered".to_owned(),
        }),
    }
}

/// The `start` message that the manager would send for this task, to one
/// worker or to all.
pub fn encode_start(task: &TaskRequest, to: Option<&str>) -> Vec<u8> {
    let (file, image_url) = match &task.module {
        Some(ModuleSource::Bytes(bytes)) => (Some(BASE64.encode(&**bytes)), None),
        Some(ModuleSource::Url(url)) => (None, Some(url.as_str())),
        None => (None, None),
    };
    let message = Start {
        id: task.id.as_str(),
        name: &task.name,
        state: task.state.map(u8::from),
        file,
        image_url,
        inputs: &task.inputs,
        cli_args: &task.cli_args,
        env: &task.env,
        daemon: task.daemon,
        broadcast: to.is_none(),
        latent: task.latent,
        encrypted: task.encrypted,
        proplet_id: to,
    };
    to_json(&message)
}

/// The `stop` message that the manager would send for this task, to one worker
/// or to all.
pub fn encode_stop(id: &TaskId, to: Option<&str>) -> Vec<u8> {
    to_json(&Stop { id: id.as_str(), broadcast: to.is_none(), proplet_id: to })
}

#[derive(serde::Serialize)]
struct Stop<'a> {
    id: &'a str,
    broadcast: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    proplet_id: Option<&'a str>,
}

#[derive(serde::Serialize)]
struct Start<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_url: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    inputs: &'a [String],
    cli_args: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: &'a BTreeMap<String, String>,
    daemon: bool,
    broadcast: bool,
    latent: bool,
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    proplet_id: Option<&'a str>,
}

/// JSON of one of our own messages.
pub(super) fn to_json<T: Serialize>(message: &T) -> Vec<u8> {
    // Only maps with keys that aren't strings and failing writers make this
    // fail; our messages have neither.
    serde_json::to_vec(message).expect("a message of strings, numbers and lists is valid JSON")
}

/// Parses the message, proves its id and its address.
fn open<'a>(
    payload: &'a [u8],
    own_id: &str,
    wanted: &'static [&'static str],
) -> Result<Option<(TaskId, Wire<'a>)>, Malformed> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let parsed = Wanted(wanted).deserialize(&mut json).and_then(|wire| json.end().map(|()| wire));
    match parsed {
        Ok(wire) if !is_for(wire.proplet_id.as_deref(), own_id) => Ok(None),
        Ok(wire) => {
            let reason = match wire.id.as_deref().map(TaskId::new) {
                Some(Ok(id)) => return Ok(Some((id, wire))),
                Some(Err(invalid)) => invalid.to_string(),
                None => "the message has no `id`".to_owned(),
            };
            Err(Malformed {
                id: None,
                invocation_id: wire
                    .invocation_id
                    .map(Cow::into_owned)
                    .filter(|id| id.len() <= MAX_INVOCATION_ID),
                reason,
            })
        }
        Err(error) => {
            // Only now, because it costs a second pass: whose is it?
            let envelope: Envelope = serde_json::from_slice(payload).unwrap_or_default();
            if !is_for(envelope.proplet_id.0.as_deref(), own_id) {
                return Ok(None);
            }
            let whole = if error.is_data() {
                format!("the message does not fit: {error}")
            } else {
                format!("the message is not valid JSON: {error}")
            };
            Err(Malformed {
                id: envelope.id.0.and_then(|id| TaskId::new(&id).ok()),
                invocation_id: envelope.invocation_id.0.filter(|id| id.len() <= MAX_INVOCATION_ID),
                reason: whole,
            })
        }
    }
}

fn is_for(addressee: Option<&str>, own_id: &str) -> bool {
    addressee.is_none_or(|to| to.is_empty() || to == own_id)
}

fn module(wire: &Wire<'_>, limit: usize) -> Result<Option<ModuleSource>, String> {
    match (wire.file.as_deref(), wire.image_url.as_deref()) {
        (Some(file), _) if !file.is_empty() => {
            let module = Binary::new(decode_module(file, limit)?);
            Ok(Some(ModuleSource::Bytes(module)))
        }
        (_, Some(url)) if !url.is_empty() => Ok(Some(ModuleSource::Url(url.to_owned()))),
        (Some(_), _) => Err("`file` is empty: upload the module again, or give `image_url`".into()),
        _ => Ok(None),
    }
}

fn decode_module(file: &str, limit: usize) -> Result<Vec<u8>, String> {
    // White space is rare, so it is looked for only where it matters.
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let over = |symbols: usize| symbols / 4 * 3 > limit;
    if over(file.len()) {
        let symbols = file.bytes().filter(|byte| !is_space(byte)).count();
        if over(symbols) {
            return Err(format!(
                "`file` holds a module of about {} bytes, more than this worker's limit of {limit}; \
                 make the module smaller or raise the limit",
                symbols / 4 * 3
            ));
        }
    }
    let decoded = match decode_exact(file.as_bytes()) {
        Err(_) if file.bytes().any(|byte| is_space(&byte)) => {
            let mut symbols = file.as_bytes().to_vec();
            symbols.retain(|byte| !is_space(byte));
            decode_exact(&symbols)
        }
        decoded => decoded,
    };
    match decoded {
        Ok(bytes) if bytes.is_empty() => {
            Err("`file` is empty: upload the module again, or give `image_url`".into())
        }
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!(
            "`file` is not valid base64: {}; encode it in one piece (`base64 -w 0 FILE` on Linux, \
             `base64 -i FILE | tr -d '\\n'` on macOS)",
            sentence(&error)
        )),
    }
}

/// Decodes into a vector that has no room to spare: a module may be 100 MiB,
/// and would be copied once more to get rid of it.
fn decode_exact(symbols: &[u8]) -> Result<Vec<u8>, base64::DecodeSliceError> {
    let padding = symbols.iter().rev().take(2).take_while(|&&byte| byte == b'=').count();
    let bits = (symbols.len() - padding) as u64 * 6;
    let mut bytes = vec![0; (bits / 8) as usize];
    let written = BASE64.decode_slice(symbols, &mut bytes)?;
    debug_assert_eq!(written, bytes.len());
    Ok(bytes)
}

fn sentence(error: &base64::DecodeSliceError) -> String {
    use base64::DecodeError::{InvalidByte, InvalidLastSymbol, InvalidLength, InvalidPadding};
    match error {
        base64::DecodeSliceError::DecodeError(InvalidByte(offset, byte)) => {
            format!("invalid symbol {byte} at offset {offset}")
        }
        base64::DecodeSliceError::DecodeError(InvalidLastSymbol(offset, byte)) => {
            format!("invalid last symbol {byte} at offset {offset}")
        }
        base64::DecodeSliceError::DecodeError(InvalidLength(length)) => {
            format!("{length} symbols can't be the whole of it")
        }
        base64::DecodeSliceError::DecodeError(InvalidPadding) => "invalid padding".to_owned(),
        // The padding is where it does not belong, so the length came out short.
        base64::DecodeSliceError::OutputSliceTooSmall => "misplaced padding".to_owned(),
    }
}
