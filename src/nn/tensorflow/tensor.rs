//! Constants: what they hold against what their shape says.

use super::read::{Parser, element, malformed, unsupported, wrong};
use super::{Data, Element, Tensor};
use crate::nn::protobuf::{Field, Once, Reader, Wire};
use crate::nn::refusal::Refusal;

impl Parser {
    pub(super) fn tensor<'a>(&mut self, mut reader: Reader<'a>) -> Result<Tensor<'a>, Refusal> {
        let mut once = Once::default();
        let (mut ty, mut shape, mut raw) = (0, Some(Vec::new()), &[][..]);
        let (mut count, mut ints) = (0u64, Vec::new());
        let mut form = None;
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    once.see(&field)?;
                    ty = field.int()?;
                }
                2 => {
                    once.see(&field)?;
                    shape = self.shape(field.message()?)?;
                }
                4 => {
                    once.see(&field)?;
                    raw = field.bytes()?.0;
                }
                number @ (5 | 6 | 7 | 10 | 11 | 13 | 16 | 17) => {
                    if form.replace(number).is_some_and(|other| other != number) {
                        return Err(malformed(field.at, "has a tensor in two forms"));
                    }
                    count += self.numbers(&field, &mut ints)?;
                }
                8 | 9 | 12 | 14 | 15 => {
                    return Err(unsupported("has a constant of text, complex numbers or handles"));
                }
                _ => {}
            }
        }
        let element = element(ty)?;
        let dims: Option<Vec<u64>> = shape.and_then(|dims| dims.into_iter().collect());
        let shape = dims.ok_or_else(|| wrong("has a constant of an open shape"))?;
        // The shape was proven to have a number of elements.
        let elements: u64 = shape.iter().product();
        let bytes = elements * element.bytes();
        self.constants = self.constants.saturating_add(bytes);
        let data = match (raw, form) {
            (_, Some(_)) if !raw.is_empty() => {
                return Err(wrong("has a constant with its elements in two forms"));
            }
            (raw, _) if raw.len() as u64 == bytes && count == 0 => Data::Raw(raw),
            // One number stands for all.
            ([], Some(form)) if form == form_of(element) && (count == elements || count == 1) => {
                match element {
                    Element::I32 | Element::I64 => Data::Ints(ints),
                    _ => Data::Other,
                }
            }
            _ => {
                return Err(wrong(&format!(
                    "has a constant of {} bytes or {count} numbers for {elements} elements",
                    raw.len()
                )));
            }
        };
        Ok(Tensor { element, shape, data })
    }

    /// How many numbers a field holds; those of integers are kept.
    fn numbers(&mut self, field: &Field<'_>, ints: &mut Vec<i64>) -> Result<u64, Refusal> {
        let size = match field.number {
            5 => 4,
            6 => 8,
            _ => 1,
        };
        match field.value {
            Wire::Fixed32 if size == 4 => Ok(1),
            Wire::Fixed64 if size == 8 => Ok(1),
            Wire::Varint(number) if size == 1 => {
                self.part()?;
                ints.push(number as i64);
                Ok(1)
            }
            Wire::Bytes(bytes, _) if size > 1 => {
                if bytes.len() % size != 0 {
                    return Err(malformed(field.at, "has a list that ends inside a number"));
                }
                Ok((bytes.len() / size) as u64)
            }
            Wire::Bytes(..) => {
                let (mut packed, before) = (field.message()?, ints.len());
                while let Some(number) = packed.packed()? {
                    self.part()?;
                    ints.push(number as i64);
                }
                Ok((ints.len() - before) as u64)
            }
            _ => Err(field.wrong()),
        }
    }
}

/// The field that numbers of this type stand in.
fn form_of(element: Element) -> u32 {
    use Element::*;
    match element {
        F32 => 5,
        F64 => 6,
        I32 | U8 | I16 | I8 | U16 => 7,
        I64 => 10,
        Bool => 11,
        F16 | Bf16 => 13,
        U32 => 16,
        U64 => 17,
    }
}
