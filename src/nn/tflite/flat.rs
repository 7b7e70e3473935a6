//! FlatBuffers, read in place and with bounds.
//!
//! It takes less than the format allows: what is read lies whole in the file
//! and in the table that it belongs to, at a place that fits its size. Nothing
//! is copied and nothing recurses. What it finds is what the format's own
//! accessors find, which look at no bound.

use crate::nn::refusal::Refusal;

/// A table: fields by their number.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    file: &'a [u8],
    at: usize,
    /// Bytes of the table itself.
    size: usize,
    /// Where each field is in the table, two bytes for each.
    fields: &'a [u8],
}

/// A vector of tables.
#[derive(Clone, Copy)]
pub(super) struct Tables<'a> {
    file: &'a [u8],
    /// Where the offset of the first one is.
    at: usize,
    count: usize,
}

impl<'a> Table<'a> {
    /// The table that the file begins with an offset of.
    pub(super) fn root(file: &'a [u8]) -> Result<Table<'a>, Refusal> {
        let at = forward(file, 0)?;
        Table::new(file, at)
    }

    fn new(file: &'a [u8], at: usize) -> Result<Table<'a>, Refusal> {
        let back = i64::from(i32::from_le_bytes(bytes(file, at)?));
        let fields = i64::try_from(at).ok().and_then(|at| at.checked_sub(back));
        let fields = fields.and_then(|place| usize::try_from(place).ok());
        let fields = fields.ok_or_else(|| malformed(at, "has a table whose fields lie outside"))?;
        let length = usize::from(u16::from_le_bytes(bytes(file, fields)?));
        let size = usize::from(u16::from_le_bytes(bytes(file, fields + 2)?));
        let list = file.get(fields + 4..).and_then(|rest| rest.get(..length.checked_sub(4)?));
        match list {
            Some(list) if length % 2 == 0 && size >= 4 && size <= file.len() - at => {
                Ok(Table { file, at, size, fields: list })
            }
            _ => Err(malformed(at, "has a table of a size that can't be")),
        }
    }

    /// Where it is in the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Where a field's bytes are, none if it is left out.
    fn place(&self, field: usize, size: usize) -> Result<Option<usize>, Refusal> {
        let entry = self.fields.get(2 * field..2 * field + 2);
        let entry = entry.map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])));
        match entry {
            0 => Ok(None),
            _ if entry < 4 || entry + size > self.size => {
                Err(malformed(self.at, "has a field outside its table"))
            }
            _ if !(self.at + entry).is_multiple_of(size) => {
                Err(malformed(self.at, "has a field at an odd place"))
            }
            _ => Ok(Some(self.at + entry)),
        }
    }

    fn scalar<const SIZE: usize>(&self, field: usize) -> Result<Option<[u8; SIZE]>, Refusal> {
        let place = self.place(field, SIZE)?;
        place.map(|place| bytes(self.file, place)).transpose()
    }

    /// A number of one byte, 0 if it is left out.
    pub(super) fn i8(&self, field: usize) -> Result<i8, Refusal> {
        Ok(self.scalar(field)?.map_or(0, i8::from_le_bytes))
    }

    /// A number of four bytes, 0 if it is left out.
    pub(super) fn i32(&self, field: usize) -> Result<i32, Refusal> {
        Ok(self.scalar(field)?.map_or(0, i32::from_le_bytes))
    }

    /// The same without a sign.
    pub(super) fn u32(&self, field: usize) -> Result<u32, Refusal> {
        Ok(self.scalar(field)?.map_or(0, u32::from_le_bytes))
    }

    /// Whether a field is there, whatever it is.
    pub(super) fn has(&self, field: usize) -> Result<bool, Refusal> {
        Ok(self.place(field, 1)?.is_some())
    }

    /// Proves that each field is in the file with so many bytes, where nobody
    /// knows their sizes.
    pub(super) fn prove(&self, size: usize) -> Result<(), Refusal> {
        let entries = self.fields.as_chunks().0.iter();
        for entry in entries.map(|two| usize::from(u16::from_le_bytes(*two))) {
            let end = self.at + entry + size;
            if entry != 0 && (entry < 4 || entry >= self.size || end > self.file.len()) {
                return Err(malformed(self.at, "has a field outside its table"));
            }
        }
        Ok(())
    }

    fn offset(&self, field: usize) -> Result<Option<usize>, Refusal> {
        self.place(field, 4)?.map(|place| forward(self.file, place)).transpose()
    }

    /// Another table, none if it is left out.
    pub(super) fn table(&self, field: usize) -> Result<Option<Table<'a>>, Refusal> {
        self.offset(field)?.map(|at| Table::new(self.file, at)).transpose()
    }

    /// The bytes of a vector's elements of this size, none if it is left out.
    pub(super) fn vector(&self, field: usize, size: usize) -> Result<Option<&'a [u8]>, Refusal> {
        let Some(at) = self.offset(field)? else { return Ok(None) };
        let count = u32::from_le_bytes(bytes(self.file, at)?) as usize;
        let length = count.checked_mul(size);
        let elements = length.and_then(|length| self.file[at + 4..].get(..length));
        elements.map(Some).ok_or_else(|| malformed(at, "has a list that is longer than the file"))
    }

    /// A vector of numbers of four bytes.
    pub(super) fn ints(&self, field: usize) -> Result<Option<Vec<i32>>, Refusal> {
        let bytes = self.vector(field, 4)?;
        Ok(bytes.map(|bytes| bytes.as_chunks().0.iter().map(|n| i32::from_le_bytes(*n)).collect()))
    }

    /// A vector of tables.
    pub(super) fn tables(&self, field: usize) -> Result<Option<Tables<'a>>, Refusal> {
        let (Some(at), Some(offsets)) = (self.offset(field)?, self.vector(field, 4)?) else {
            return Ok(None);
        };
        Ok(Some(Tables { file: self.file, at: at + 4, count: offsets.len() / 4 }))
    }

    /// Text, which is UTF-8 without a NUL and ends in one.
    pub(super) fn text(&self, field: usize) -> Result<Option<&'a str>, Refusal> {
        let Some(at) = self.offset(field)? else { return Ok(None) };
        let Some(text) = self.vector(field, 1)? else { return Ok(None) };
        let ends = self.file.get(at + 4 + text.len()) == Some(&0);
        match std::str::from_utf8(text) {
            Ok(text) if ends && !text.contains('\0') => Ok(Some(text)),
            _ => Err(malformed(at, "has a name that is not UTF-8, holds a NUL or does not end")),
        }
    }
}

impl<'a> Tables<'a> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// One of them; the index is below their number.
    pub(super) fn get(&self, index: usize) -> Result<Table<'a>, Refusal> {
        assert!(index < self.count, "{index} of {} tables", self.count);
        Table::new(self.file, forward(self.file, self.at + 4 * index)?)
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<Table<'a>, Refusal>> + use<'a> {
        let all = *self;
        (0..all.count).map(move |index| all.get(index))
    }
}

/// Where the offset at this place leads, which is forward and to a place that
/// has room for a size.
fn forward(file: &[u8], place: usize) -> Result<usize, Refusal> {
    let offset = u32::from_le_bytes(bytes(file, place)?) as usize;
    let at = place.checked_add(offset).filter(|at| file.len().saturating_sub(4) >= *at);
    match at {
        Some(at) if offset > 0 && at % 4 == 0 => Ok(at),
        _ => Err(malformed(place, "has an offset out of the file")),
    }
}

/// So many bytes at a place.
fn bytes<const SIZE: usize>(file: &[u8], at: usize) -> Result<[u8; SIZE], Refusal> {
    let found = file.get(at..).and_then(|rest| rest.first_chunk::<SIZE>());
    found.copied().ok_or_else(|| malformed(at, "ends inside a table"))
}

/// The refusal of what is no TensorFlow Lite file.
pub(super) fn malformed(at: usize, what: &str) -> Refusal {
    Refusal::argument(format!("the TensorFlow Lite model {what} (at byte {at})"))
}
