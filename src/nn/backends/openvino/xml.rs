//! A look at a model's XML before OpenVINO parses it.
//!
//! One pass, not recursive. It accepts less than XML does (no document type, no
//! NUL, UTF-8 alone, one root named `net`), so that no parser behind it can see
//! more nesting or other weights than what was counted here. The layers that it
//! passes are kept, and held to the list of operators at the end.

use self::layers::Layers;
use super::operators::Operators;
use crate::nn::refusal::{Errno, Refusal};

mod bodies;
mod estimate;
mod layers;
mod prove;
mod rewrite;
mod values;

/// The deepest nesting. A plain model needs 7 levels; each `If`, `Loop` or
/// `TensorIterator` around a body adds 3. OpenVINO recurses through bodies.
pub(in crate::nn) const MAX_DEPTH: usize = 64;

/// The most elements: a language model of some billions of weights has about
/// 300,000.
pub(in crate::nn) const MAX_ELEMENTS: usize = 1_000_000;

/// The largest XML in bytes.
pub(in crate::nn) const MAX_BYTES: usize = 32 << 20;

/// The most attributes of one element.
const MAX_ATTRIBUTES: usize = 64;

/// What the XML says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nn) struct Scan {
    /// The model has operators that keep a state between inferences.
    pub(in crate::nn) stateful: bool,
    pub(in crate::nn) elements: usize,
    /// The XML with layers in it that keep others from memory that is not
    /// theirs, and without what only the library's own parts should say, if it
    /// needs any of that.
    pub(in crate::nn) mended: Option<Vec<u8>>,
}

/// What a model is held to.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) struct Bounds {
    /// The operators that it may have.
    pub(in crate::nn) operators: Operators,
    /// Bytes that its tensors may take, as far as their shapes say it.
    pub(in crate::nn) tensor_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { operators: Operators::Checked, tensor_bytes: u64::MAX }
    }
}

/// Whether these bytes begin as OpenVINO's XML does: `<?xml` or `<net`, after
/// a byte order mark and white space.
pub(super) fn is_start(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii_start();
    bytes.starts_with(b"<?xml") || bytes.starts_with(b"<net")
}

/// Proves the XML against its limits, its constants against `weights`, the
/// bytes that come with it, and its layers against `bounds`.
pub(super) fn scan(xml: &[u8], weights: &[u8], bounds: Bounds) -> Result<Scan, Refusal> {
    if xml.len() > MAX_BYTES {
        return Err(Refusal::too_large(format!(
            "the model's XML has {} bytes, more than {MAX_BYTES}",
            xml.len()
        )));
    }
    if let Err(error) = std::str::from_utf8(xml) {
        return Err(malformed(error.valid_up_to(), "is not UTF-8"));
    }
    if let Some(at) = xml.iter().position(|&byte| byte == 0) {
        return Err(malformed(at, "holds a NUL"));
    }
    let at = if xml.starts_with(BOM) { BOM.len() } else { 0 };
    let layers = Layers::default();
    let scanner = Scanner { xml, at, open: Vec::new(), weights, elements: 0, layers };
    let (elements, layers) = scanner.run()?;
    let stateful = prove::keeps_state(&layers);
    let mended = match bounds.operators {
        Operators::All => None,
        Operators::Checked => rewrite::text(xml, prove::prove(&layers, weights)?.plan)?,
    };
    estimate::prove(&layers, bounds.tensor_bytes)?;
    Ok(Scan { stateful, elements, mended })
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// An element as it begins.
struct Element<'e, 'a> {
    name: &'a str,
    attributes: &'e [(&'a str, &'a str)],
    /// Where it begins, and where what opens it ends.
    at: usize,
    end: usize,
}

impl<'a> Element<'_, 'a> {
    fn attribute(&self, key: &str) -> Option<&'a str> {
        self.attributes.iter().find(|(own, _)| *own == key).map(|(_, value)| *value)
    }

    fn number(&self, key: &str) -> Result<u64, Refusal> {
        let value = self.attribute(key).and_then(|value| number(value.as_bytes()));
        value.ok_or_else(|| {
            malformed(self.at, &format!("has an element whose `{key}` is not a number"))
        })
    }
}

struct Scanner<'a> {
    xml: &'a [u8],
    at: usize,
    /// The names of the elements around `at`.
    open: Vec<&'a [u8]>,
    weights: &'a [u8],
    elements: usize,
    layers: Layers<'a>,
}

impl<'a> Scanner<'a> {
    fn run(mut self) -> Result<(usize, Layers<'a>), Refusal> {
        loop {
            let rest = self.rest();
            let text = rest.iter().position(|&byte| byte == b'<').unwrap_or(rest.len());
            if self.open.is_empty() && !rest[..text].trim_ascii().is_empty() {
                return Err(self.malformed("has text outside its root"));
            }
            if let Some(element) = self.open.last() {
                self.layers.text(element, &rest[..text]);
            }
            self.at += text;
            let rest = self.rest();
            if rest.is_empty() {
                break;
            }
            if rest.starts_with(b"<!--") {
                self.skip_behind(4, b"-->")?;
            } else if rest.starts_with(b"<?") {
                self.skip_behind(2, b"?>")?;
            } else if rest.starts_with(b"<![CDATA[") && !self.open.is_empty() {
                self.skip_behind(9, b"]]>")?;
            } else if rest.starts_with(b"<!") {
                return Err(self.malformed("has a document type or another declaration"));
            } else if rest.starts_with(b"</") {
                self.close()?;
            } else {
                self.element()?;
            }
        }
        match (self.open.last(), self.elements) {
            (Some(_), _) => Err(self.malformed("ends inside an element")),
            (None, 0) => Err(self.malformed("has no `net` element")),
            (None, elements) => Ok((elements, self.layers)),
        }
    }

    fn close(&mut self) -> Result<(), Refusal> {
        let at = self.at;
        self.at += 2;
        let name = self.name()?;
        self.skip_space();
        if self.open.pop() != Some(name) || !self.take(b">") {
            return Err(self.malformed("closes an element that is not the last one opened"));
        }
        self.layers.close(at, self.at);
        Ok(())
    }

    fn element(&mut self) -> Result<(), Refusal> {
        let at = self.at;
        self.at += 1;
        let name = self.name()?;
        if self.open.is_empty() && (name != b"net" || self.elements > 0) {
            return Err(self.malformed("has another root than one `net` element"));
        }
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(Refusal::too_large(format!(
                "the model's XML has more than {MAX_ELEMENTS} elements"
            )));
        }
        let mut attributes: Vec<(&str, &str)> = Vec::new();
        let opens = loop {
            let spaced = self.skip_space();
            if self.take(b"/>") {
                break false;
            }
            if self.take(b">") {
                if self.open.len() == MAX_DEPTH {
                    return Err(Refusal::too_large(format!(
                        "the model's XML nests deeper than {MAX_DEPTH} elements (at byte {})",
                        self.at
                    )));
                }
                self.open.push(name);
                break true;
            }
            if !spaced || attributes.len() == MAX_ATTRIBUTES {
                return Err(self.malformed("has a malformed element"));
            }
            let (key, value) = self.attribute()?;
            if attributes.iter().any(|(other, _)| *other == key) {
                return Err(self.malformed("has an attribute twice"));
            }
            attributes.push((key, value));
        };
        let name = text(name);
        let element = Element { name, attributes: &attributes, at, end: self.at };
        // Only constants have both (the operators' own attributes of these
        // names never come together).
        if let ("data", Some(offset), Some(size)) =
            (name, element.attribute("offset"), element.attribute("size"))
        {
            self.constant(offset.as_bytes(), size.as_bytes())?;
        }
        self.layers.element(&element, opens)
    }

    fn constant(&self, offset: &[u8], size: &[u8]) -> Result<(), Refusal> {
        let (Some(first), Some(count)) = (number(offset), number(size)) else {
            return Err(self.malformed("has a constant whose offset or size is not a number"));
        };
        if first.checked_add(count).is_none_or(|end| end > self.weights.len() as u64) {
            return Err(Refusal::argument(format!(
                "the model's weights have {} bytes, but its XML has a constant of {count} bytes at {first}",
                self.weights.len()
            )));
        }
        Ok(())
    }

    fn attribute(&mut self) -> Result<(&'a str, &'a str), Refusal> {
        let key = self.name()?;
        self.skip_space();
        if !self.take(b"=") {
            return Err(self.malformed("has an attribute without a value"));
        }
        self.skip_space();
        let rest = self.rest();
        let quote = match rest.first() {
            Some(&quote @ (b'"' | b'\'')) => quote,
            _ => return Err(self.malformed("has an attribute without quotes")),
        };
        let value = &rest[1..];
        match value.iter().position(|&byte| byte == quote || byte == b'<') {
            Some(end) if value[end] == quote => {
                self.at += end + 2;
                Ok((text(key), text(&value[..end])))
            }
            _ => Err(self.malformed("has an attribute that does not end")),
        }
    }

    fn name(&mut self) -> Result<&'a [u8], Refusal> {
        let rest = self.rest();
        let part = |&byte: &u8| byte.is_ascii_alphanumeric() || b"_:.-".contains(&byte);
        let end = rest.iter().position(|byte| !part(byte)).unwrap_or(rest.len());
        let name = &rest[..end];
        match name.first() {
            Some(first) if first.is_ascii_alphabetic() || *first == b'_' => {
                self.at += end;
                Ok(name)
            }
            _ => Err(self.malformed("has a malformed name")),
        }
    }

    fn skip_space(&mut self) -> bool {
        let rest = self.rest();
        let space = rest.len() - rest.trim_ascii_start().len();
        self.at += space;
        space > 0
    }

    fn skip_behind(&mut self, start: usize, end: &[u8]) -> Result<(), Refusal> {
        let body = &self.rest()[start..];
        match body.windows(end.len()).position(|window| window == end) {
            Some(found) => {
                self.at += start + found + end.len();
                Ok(())
            }
            None => Err(self.malformed("has a comment, section or instruction that does not end")),
        }
    }

    fn take(&mut self, token: &[u8]) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn rest(&self) -> &'a [u8] {
        &self.xml[self.at..]
    }

    fn malformed(&self, what: &str) -> Refusal {
        malformed(self.at, what)
    }
}

/// A part of the XML that ends at ASCII, which is text as all of it is.
fn text(part: &[u8]) -> &str {
    std::str::from_utf8(part).unwrap_or_default()
}

fn malformed(at: usize, what: &str) -> Refusal {
    Refusal::new(Errno::InvalidArgument, format!("the model's XML {what} (at byte {at})"))
}

// Decimal digits alone: whatever else a parser may take for a number (signs,
// spaces, hexadecimal) could mean another one to it.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod proofs;
#[cfg(test)]
mod tests;
