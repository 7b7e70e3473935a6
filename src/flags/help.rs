//! What `wasmtime run -S help` prints, from the tables in [`super::options`].

use std::fmt::Write as _;

use super::grammar::OptionGroup;
use super::options::{self, FLAGS};

/// What was typed to get the help of this letter.
pub(super) fn help_flag(letter: char) -> String {
    if letter == 'h' { "--help".to_owned() } else { format!("-{letter} help") }
}

/// The list that `wasmtime run -S help` prints, as it is here, for the groups
/// `S`, `W`, `O`, `C` and `D`; for `h` the flags themselves. Other letters have
/// none.
pub fn help(letter: char) -> Option<String> {
    let mut text = String::new();
    // Writing to a string never fails.
    let mut line = |args: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{args}");
    };
    match letter {
        'h' => {
            for desc in FLAGS.iter().filter(|desc| !desc.help.is_empty()) {
                let names = desc.names.join(", ");
                let gap = if desc.value.is_empty() { "" } else { " " };
                line(format_args!("  {names}{gap}{} -- {}", desc.value, desc.help));
            }
        }
        'S' | 'W' => {
            let group = if letter == 'S' { OptionGroup::Wasi } else { OptionGroup::Wasm };
            for desc in options::of(group).unwrap_or_default() {
                line(format_args!(
                    "  -{letter} {}{} -- {}",
                    desc.name,
                    desc.shape.form(),
                    desc.help
                ));
            }
        }
        'O' | 'C' | 'D' => line(format_args!(
            "  -{letter} KEY[=VAL] -- Any setting is accepted and has no effect: the engine is made once, for all tasks"
        )),
        _ => return None,
    }
    Some(text)
}
