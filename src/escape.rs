//! Text from outside on one line: what would end the line, move a cursor or hide
//! text is written as an escape.

use std::fmt::{self, Write};

/// Writes text with its control characters as escapes, and with them what
/// turns lines or hides text without being one.
pub struct Escaped<W>(pub W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = text;
        while let Some((at, found)) = plain.char_indices().find(|(_, c)| is_escaped(*c)) {
            self.0.write_str(&plain[..at])?;
            write!(self.0, "{}", found.escape_default())?;
            plain = &plain[at + found.len_utf8()..];
        }
        self.0.write_str(plain)
    }
}

/// The text so written.
pub fn escaped(text: &str) -> String {
    let mut escaped = Escaped(String::with_capacity(text.len()));
    escaped.write_str(text).expect("a string takes all");
    escaped.0
}

fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
