//! The code of an archive as tokens: those that libtorch writes and no others, with
//! bounds on what its reader and compiler recurse along.

/// Brackets in brackets.
pub(in crate::nn) const MAX_DEPTH: usize = 100;
/// Blanks before a line: blocks in blocks, two for each.
const MAX_INDENT: usize = 200;
/// Names, brackets and signs of a line: libtorch recurses along them.
pub(in crate::nn) const MAX_LINE: usize = 4096;
/// `elif` in a file: each is a block in the one before.
const MAX_ELIF: usize = 100;
/// Lines without anything, one after the other.
const MAX_BLANK: usize = 100;

/// Words of Python that libtorch never writes.
const REFUSED: &[&str] =
    &["async", "await", "del", "from", "global", "lambda", "nonlocal", "raise", "try", "yield"];

/// A token: what it is, and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Name(&'a str),
    Number,
    Text,
    Sign(char),
    /// The end of a logical line: the blanks before the next one, and its number.
    Line(usize, usize),
}

/// What was made of the code, or the line of what is wrong and why.
pub(super) type Found<T> = Result<T, (usize, String)>;

/// The tokens of a file.
pub(super) fn tokens(code: &[u8]) -> Found<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let (mut at, mut line, mut depth, mut weight, mut elif) = (0, 1, 0_usize, 0, 0);
    let mut blank = 0;
    let peek = |at: usize| code.get(at).copied().unwrap_or(0);
    while at < code.len() {
        let byte = code[at];
        let begun = at;
        match byte {
            b' ' => at += 1,
            b'\n' => {
                at += 1;
                line += 1;
                blank = if peek(at) == b'\n' { blank + 1 } else { 0 };
                if blank > MAX_BLANK {
                    return Err((line, "there are too many lines without anything".to_owned()));
                }
                if depth > 0 {
                    continue;
                }
                let indent = code[at..].iter().take_while(|&&byte| byte == b' ').count();
                if indent > MAX_INDENT {
                    return Err((line, format!("it begins with more than {MAX_INDENT} blanks")));
                }
                at += indent;
                // Lines of blanks are none.
                if peek(at) != b'\n' && at < code.len() {
                    tokens.push(Token::Line(indent, line));
                    weight = 0;
                }
                continue;
            }
            b'"' | b'\'' => {
                let end = text(code, at).map_err(|error| (line, error))?;
                at = end;
                tokens.push(Token::Text);
            }
            b'0'..=b'9' => {
                at = number(code, at).map_err(|error| (line, error))?;
                tokens.push(Token::Number);
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                while peek(at).is_ascii_alphanumeric() || peek(at) == b'_' {
                    at += 1;
                }
                let name = std::str::from_utf8(&code[begun..at]).unwrap_or_default();
                if REFUSED.contains(&name) {
                    return Err((line, format!("libtorch writes no `{name}`")));
                }
                elif += usize::from(name == "elif");
                if elif > MAX_ELIF {
                    return Err((line, format!("there are more than {MAX_ELIF} `elif`")));
                }
                tokens.push(Token::Name(name));
            }
            // A number that begins with a point would be read as one.
            b'.' if peek(at + 1).is_ascii_digit() => {
                return Err((line, "a number has no digit before its point".to_owned()));
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err((line, format!("brackets are more than {MAX_DEPTH} deep")));
                }
                at += 1;
                tokens.push(Token::Sign(byte.into()));
            }
            b')' | b']' | b'}' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| (line, "a bracket closes none".to_owned()))?;
                at += 1;
                tokens.push(Token::Sign(byte.into()));
            }
            b'.' | b',' | b':' | b'=' | b'-' | b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'!'
            | b'~' | b'&' | b'|' | b'^' => {
                at += 1;
                tokens.push(Token::Sign(byte.into()));
            }
            _ => {
                let sign = char::from(byte).escape_default();
                return Err((line, format!("libtorch writes no `{sign}`")));
            }
        }
        let heavy = match tokens.last() {
            Some(Token::Number | Token::Text | Token::Sign(',')) => false,
            // One before a number of a list of them.
            Some(Token::Sign('-')) => !peek(at).is_ascii_digit(),
            _ => byte != b' ',
        };
        weight += usize::from(heavy && at > begun);
        if weight > MAX_LINE {
            return Err((line, format!("it has more than {MAX_LINE} names, brackets and signs")));
        }
    }
    match depth {
        0 => Ok(tokens),
        _ => Err((line, "a bracket is not closed".to_owned())),
    }
}

/// The end of a text.
fn text(code: &[u8], start: usize) -> Result<usize, String> {
    let quote = code[start];
    if code[start..].starts_with(&[quote; 3]) {
        return Err("libtorch writes no text of several lines".to_owned());
    }
    let mut at = start + 1;
    loop {
        match code.get(at) {
            Some(b'\\') => at += 2,
            Some(&byte) if byte == quote => return Ok(at + 1),
            Some(&byte) if byte != b'\n' => at += 1,
            _ => return Err("a text has no end".to_owned()),
        }
    }
}

/// The end of a number: digits, a point and digits, an exponent.
fn number(code: &[u8], start: usize) -> Result<usize, String> {
    let digits = |mut at: usize| {
        while code.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut at = digits(start);
    if code.get(at) == Some(&b'.') {
        at = digits(at + 1);
    }
    if code.get(at) == Some(&b'e') {
        let sign = matches!(code.get(at + 1), Some(b'-' | b'+'));
        let end = digits(at + 1 + usize::from(sign));
        if end == at + 1 + usize::from(sign) {
            return Err("a number has no exponent".to_owned());
        }
        at = end;
    }
    match code.get(at) {
        Some(byte) if byte.is_ascii_alphanumeric() || b"._".contains(byte) => {
            Err("a number is not written as libtorch does".to_owned())
        }
        _ => Ok(at),
    }
}
