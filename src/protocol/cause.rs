//! Why a task failed, told in `results` as well: the manager's command line
//! shows that field and never `error`. It is there on the wire alone, and can
//! be told from what the guest wrote.

use super::output::Output;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// What the guest wrote, with the cause: the whole error where it wrote
/// nothing, else its first line as the last line, `error: …`. Bytes that are
/// no text stay as they are, and the line stands beside them.
pub(super) fn add(results: &Output, error: &str) -> Output {
    match results {
        Output::Text(text) if text.is_empty() => Output::Text(error.to_owned()),
        Output::Text(text) => Output::Text(text.clone() + &last_line(text, error)),
        Output::Bytes(bytes) => Output::Json(json!({
            "base64": STANDARD.encode(bytes),
            "error": first_line(error),
        })),
        Output::Json(value) => {
            let mut value = value.clone();
            if let Some(object) = value.as_object_mut() {
                object.insert("error".into(), first_line(error).into());
            }
            Output::Json(value)
        }
    }
}

/// Undoes [`add`]; what does not end so is left alone.
pub(super) fn remove(mut results: Output, error: &str) -> Output {
    if let Output::Json(serde_json::Value::Object(object)) = &mut results
        && object.get("error").and_then(|told| told.as_str()) == Some(first_line(error))
    {
        object.remove("error");
    }
    let Output::Text(mut text) = results else { return results };
    if text == error {
        return Output::default();
    }
    for written in ["\n", ""] {
        let line = last_line(written, error);
        let whole = written.to_owned() + &line;
        if text.ends_with(&whole) {
            text.truncate(text.len() - line.len());
            break;
        }
    }
    Output::Text(text)
}

/// A line of its own behind this text, with a break at its end only if the
/// text has one: so the text can be had back.
fn last_line(text: &str, error: &str) -> String {
    let error = first_line(error);
    if text.ends_with('\n') { format!("error: {error}\n") } else { format!("\nerror: {error}") }
}

fn first_line(error: &str) -> &str {
    error.lines().next().unwrap_or_default()
}
