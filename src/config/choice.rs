//! Values of settings that are one of a few, from text to types. The errors say
//! which ones there are; see [`super::value`].

use super::value::boolean;
use super::{CleanSession, Isolation, LogFormat, Qos};
use crate::manager::MissingData;
use crate::nn::{BackendName, Devices, Hint, LoadBytes, Operators, Precision};

/// Reads an MQTT quality of service; says whether it was lowered.
pub(super) fn qos(text: &str) -> Result<(Qos, bool), String> {
    match text {
        "0" => Ok((Qos::AtMostOnce, false)),
        "1" => Ok((Qos::AtLeastOnce, false)),
        "2" => Ok((Qos::AtLeastOnce, true)),
        _ => Err("not a quality of service: it is 0 or 1 (2 is accepted and means 1)".into()),
    }
}

/// Reads what becomes of a task of a federated round without its data.
pub(super) fn missing_data(text: &str) -> Result<MissingData, String> {
    match text {
        "fail" => Ok(MissingData::Fail),
        "run" => Ok(MissingData::Run),
        _ => Err("neither fail nor run".into()),
    }
}

/// Reads whether a session is clean.
pub(super) fn clean_session(text: &str) -> Result<CleanSession, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(CleanSession::Auto);
    }
    match boolean(text) {
        Ok(true) => Ok(CleanSession::Always),
        Ok(false) => Ok(CleanSession::Never),
        Err(_) => Err("neither auto nor true or false".into()),
    }
}

/// Reads the one backend for models; none is `auto`.
pub(super) fn backend(text: &str) -> Result<Option<BackendName>, String> {
    let text = text.to_ascii_lowercase();
    if text == "auto" {
        return Ok(None);
    }
    let known = BackendName::ALL.into_iter().find(|backend| backend.name() == text);
    let backend = known.ok_or_else(|| {
        let names = BackendName::ALL.map(BackendName::name).join(", ");
        format!("not a backend: it is auto or one of {names}")
    })?;
    if !backend.is_built() {
        return Err("not a backend of this build, see `proplet --version`".into());
    }
    Ok(Some(backend))
}

/// Reads a performance hint; none is `auto`.
pub(super) fn hint(text: &str) -> Result<Option<Hint>, String> {
    match text.to_ascii_lowercase().as_str() {
        "latency" => Ok(Some(Hint::Latency)),
        "throughput" => Ok(Some(Hint::Throughput)),
        "auto" => Ok(None),
        _ => Err("not a hint: it is latency, throughput or auto".into()),
    }
}

/// Reads what to compute in.
pub(super) fn precision(text: &str) -> Result<Precision, String> {
    match text.to_ascii_lowercase().as_str() {
        "f32" => Ok(Precision::F32),
        "auto" => Ok(Precision::Auto),
        _ => Err("not a precision: it is f32 or auto".into()),
    }
}

/// Reads where guests and models run.
pub(super) fn isolation(text: &str) -> Result<Isolation, String> {
    match text {
        "process" if cfg!(target_os = "linux") => Ok(Isolation::Process),
        "process" => Err("only Linux has what it takes: use none here".into()),
        "none" => Ok(Isolation::None),
        _ => Err("not a kind of isolation: it is process or none".into()),
    }
}

/// Reads which operators models may have.
pub(super) fn operators(text: &str) -> Result<Operators, String> {
    match text.to_ascii_lowercase().as_str() {
        "checked" => Ok(Operators::Checked),
        "all" => Ok(Operators::All),
        _ => Err("not a choice of operators: it is checked or all".into()),
    }
}

/// Reads of which encodings guests may hand over models.
pub(super) fn load_bytes(text: &str) -> Result<LoadBytes, String> {
    match boolean(text) {
        Ok(true) => return Ok(LoadBytes::All),
        Ok(false) => return Ok(LoadBytes::none()),
        Err(_) => {}
    }
    let name = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        match LoadBytes::ENCODINGS.contains(&&*name) {
            true => Ok(name),
            false => Err(format!(
                "not true, false or a list of encodings: `{name}` is not one of {}",
                LoadBytes::ENCODINGS.join(", ")
            )),
        }
    };
    text.split(',').map(name).collect::<Result<_, _>>().map(LoadBytes::Only)
}

/// Reads OpenVINO's devices for the guests' targets. A list of devices has commas
/// of its own: what begins with no target is part of the device before it.
pub(super) fn devices(text: &str) -> Result<Devices, String> {
    const FORM: &str = "a list such as cpu=CPU,gpu=AUTO:GPU,CPU,tpu=NPU";
    let mut found: [Option<String>; 3] = [None, None, None];
    let mut last = None;
    for part in text.split(',').map(str::trim) {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":.()-_".contains(&byte);
        let (target, device) = match part.split_once('=') {
            Some((target, device)) => (Some(target.to_ascii_lowercase()), device),
            None => (None, part),
        };
        if device.is_empty() || !device.bytes().all(plain) {
            return Err(format!("`{part}` names no device: it is {FORM}"));
        }
        let place = match (target.as_deref(), last) {
            (None, Some(before)) => {
                let list: &mut Option<String> = &mut found[before];
                list.as_mut().expect("it was named").extend([",", device]);
                continue;
            }
            (Some("cpu"), _) => 0,
            (Some("gpu"), _) => 1,
            (Some("tpu"), _) => 2,
            _ => return Err(format!("`{part}` has no target: it is {FORM}")),
        };
        if found[place].replace(device.to_owned()).is_some() {
            return Err(format!("`{part}` gives a target a second device"));
        }
        last = Some(place);
    }
    let [cpu, gpu, tpu] = found;
    // Guests that say nothing of a target mean the CPU.
    Ok(Devices { cpu: cpu.or_else(|| Devices::default().cpu), gpu, tpu })
}

/// Reads the form of the log.
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("not a log format: it is text or json".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_choice_panics(text in "\\PC{0,24}|[0-9_.a-zA-Z:=,]{0,24}") {
            let _ = (qos(&text), clean_session(&text), backend(&text), hint(&text));
            let _ = (precision(&text), isolation(&text), operators(&text), devices(&text));
            let _ = (log_format(&text), load_bytes(&text));
        }
    }
}
