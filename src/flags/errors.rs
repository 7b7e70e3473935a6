//! What is said about arguments that were not understood.

use super::grammar::{OptionDesc, OptionGroup};
use super::options;
use super::{FlagError, closest};

pub(super) fn invalid(text: String) -> FlagError {
    FlagError::Invalid(text)
}

pub(super) fn stray_argument(arg: &str) -> FlagError {
    if let Some(hint) = separate(arg) {
        return invalid(format!("`{arg}` is not a flag: {hint}"));
    }
    invalid(match arg {
        "" => "an argument is empty: leave it out".to_owned(),
        _ => format!(
            "`{arg}` is not a flag: `cli_args` holds what stands before the module in `wasmtime run`; \
             the guest's own arguments are the task's `inputs`"
        ),
    })
}

pub(super) fn unknown_flag(arg: &str, name: &str) -> FlagError {
    if let Some(hint) = separate(arg).filter(|_| name.contains(char::is_whitespace)) {
        return invalid(format!("unknown flag `{arg}`: {hint}"));
    }
    let near = closest(name, options::flags()).filter(|_| name.starts_with("--"));
    invalid(match near {
        Some(near) => format!("unknown flag `{name}`; did you mean `{near}`?"),
        None => format!("unknown flag `{name}`; `proplet run --help` lists the flags"),
    })
}

pub(super) fn unknown_option(
    group: OptionGroup,
    flag: &str,
    value: &str,
    key: &str,
    options: &[OptionDesc],
) -> FlagError {
    let letter = group.letter();
    // `-S nn --dir=fixture` in one string reaches this place as the option
    // ` nn --dir`.
    if let Some(hint) =
        separate(&format!("{flag} {value}")).filter(|_| key.contains(char::is_whitespace))
    {
        return invalid(format!("unknown option `{key}` of `-{letter}`: {hint}"));
    }
    invalid(match closest(key, options.iter().map(|desc| desc.name)) {
        Some(near) => format!("unknown option `-{letter} {key}`; did you mean `-{letter} {near}`?"),
        None => {
            format!("unknown option `-{letter} {key}`; `proplet run -{letter} help` lists them")
        }
    })
}

/// The advice for several arguments in one string, written out.
fn separate(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    (parts.len() > 1 && parts.iter().any(|part| part.starts_with('-')))
        .then(|| format!("one argument an element, please: {parts:?}"))
}
