//! Protobuf's wire format, read in place and with bounds.
//!
//! It takes less than the format allows: no groups, no field 0, no number
//! that does not fit. A length is proven against what is left before it is
//! used. Nothing is copied and nothing recurses.

use crate::nn::refusal::Refusal;

/// A message's fields, in order.
pub(super) struct Reader<'a> {
    /// What messages call the format of the file.
    format: &'static str,
    rest: &'a [u8],
    /// Where `rest` begins in the file.
    at: usize,
}

/// One field.
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) value: Wire<'a>,
    /// Where it begins in the file.
    pub(super) at: usize,
    format: &'static str,
}

/// What a field carries, by its wire type.
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64,
    Fixed32,
    /// A string, bytes, a message or packed numbers, and where they begin.
    Bytes(&'a [u8], usize),
}

impl<'a> Reader<'a> {
    /// A whole file of a format, such as ONNX.
    pub(super) fn new(file: &'a [u8], format: &'static str) -> Reader<'a> {
        Reader { format, rest: file, at: 0 }
    }

    /// The next field, none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, Refusal> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let at = self.at;
        let tag = self.varint()?;
        let number = match u32::try_from(tag >> 3) {
            Ok(number @ 1..=0x1fff_ffff) => number,
            _ => {
                return Err(malformed(self.format, at, "has a field whose number is out of range"));
            }
        };
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed64
            }
            2 => {
                let length = self.varint()?;
                let begin = self.at;
                Wire::Bytes(self.take(length)?, begin)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => {
                return Err(malformed(
                    self.format,
                    at,
                    "has a field of a wire type that no model uses",
                ));
            }
        };
        Ok(Some(Field { number, value, at, format: self.format }))
    }

    /// Where the next field begins in the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next number of packed ones, none at the end.
    pub(super) fn packed(&mut self) -> Result<Option<u64>, Refusal> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Refusal> {
        let length = usize::try_from(length).ok().filter(|&length| length <= self.rest.len());
        let Some(length) = length else {
            return Err(malformed(self.format, self.at, "ends inside a field"));
        };
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.at += length;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Refusal> {
        let (at, mut number) = (self.at, 0u64);
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            // Of the tenth byte one bit is left.
            if index == 9 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                self.at += index + 1;
                return Ok(number);
            }
        }
        Err(malformed(self.format, at, "has a number that does not end or does not fit 64 bits"))
    }
}

impl<'a> Field<'a> {
    pub(super) fn message(&self) -> Result<Reader<'a>, Refusal> {
        self.bytes().map(|(rest, at)| Reader { format: self.format, rest, at })
    }

    /// Text, which is UTF-8 without a NUL.
    pub(super) fn text(&self) -> Result<&'a str, Refusal> {
        let (bytes, at) = self.bytes()?;
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(malformed(self.format, at, "has a name that is not UTF-8 or holds a NUL")),
        }
    }

    /// Bytes, and where they begin.
    pub(super) fn bytes(&self) -> Result<(&'a [u8], usize), Refusal> {
        match self.value {
            Wire::Bytes(bytes, at) => Ok((bytes, at)),
            _ => Err(self.wrong()),
        }
    }

    /// A signed number.
    pub(super) fn int(&self) -> Result<i64, Refusal> {
        match self.value {
            // Two's complement, as protobuf's `int64` has it.
            Wire::Varint(number) => Ok(number as i64),
            _ => Err(self.wrong()),
        }
    }

    /// The refusal of a field of another wire type than the schema's.
    pub(super) fn wrong(&self) -> Refusal {
        let text = format!("has field {} in another form than its format has", self.number);
        malformed(self.format, self.at, &text)
    }
}

/// The fields of a message that were seen and may come once.
#[derive(Default)]
pub(super) struct Once(u32);

impl Once {
    pub(super) fn see(&mut self, field: &Field<'_>) -> Result<(), Refusal> {
        let bit = 1u32.checked_shl(field.number).expect("the schema's single fields are below 32");
        if self.0 & bit != 0 {
            let what = format!("has field {} twice", field.number);
            return Err(malformed(field.format, field.at, &what));
        }
        self.0 |= bit;
        Ok(())
    }
}

/// The refusal of what is no file of this format.
pub(super) fn malformed(format: &str, at: usize, what: &str) -> Refusal {
    Refusal::argument(format!("the {format} model {what} (at byte {at})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(bytes: &[u8]) -> String {
        let mut reader = Reader::new(bytes, "tested");
        loop {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{bytes:?} was taken"),
                Err(refusal) => return refusal.text,
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_place() {
        assert!(refused(&[0x08]).ends_with("(at byte 1)"));
        assert!(refused(&[0x08, 1, 0x0a, 2, b'x']).contains("ends inside a field (at byte 4)"));
        assert!(
            refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])
                .contains("inside")
        );
        assert!(refused(&[0x80; 11]).contains("does not end"));
        assert!(
            refused(&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2])
                .contains("64 bits")
        );
        assert!(refused(&[0x02, 0]).contains("out of range"), "field 0");
        assert!(refused(&[0x0b, 0x0c]).contains("wire type"), "a group");
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes, "tested");
            let mut fields = 0;
            while let Ok(Some(field)) = reader.next() {
                fields += 1;
                prop_assert!(field.at < bytes.len());
            }
            prop_assert!(fields <= bytes.len());
        }
    }
}
