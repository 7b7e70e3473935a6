//! A tensor with its data, of which there must be as much as its shape says.

use super::read::{Parser, unsupported};
use super::types::{MAX_RANK, count};
use super::wire::{Field, Once, Reader, Wire, malformed};
use super::{Data, Element, Tensor, short};
use crate::nn::refusal::Refusal;

/// The most numbers of a tensor that are kept as `i64`: shapes, axes, indices.
const KEPT: u64 = 1 << 16;

impl Parser {
    pub(super) fn tensor<'a>(&mut self, mut reader: Reader<'a>) -> Result<Tensor<'a>, Refusal> {
        self.part()?;
        let (mut once, mut name, mut number, mut dims) = (Once::default(), "", 0, Vec::new());
        let (mut raw, mut typed) = (None, None::<Typed>);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => self.ints(&field, &mut dims)?,
                2 => {
                    once.see(&field)?;
                    number = field.int()?;
                }
                3 => return Err(unsupported("has a tensor in segments")),
                4..=7 | 10 | 11 => {
                    let typed = typed.get_or_insert(Typed::new(field.number));
                    if typed.field != field.number {
                        return Err(malformed(field.at, "has a tensor with two kinds of data"));
                    }
                    typed.add(&field)?;
                }
                8 => {
                    once.see(&field)?;
                    name = field.text()?;
                }
                9 => {
                    once.see(&field)?;
                    raw = Some(field.bytes()?.0);
                }
                13 => {
                    // Files of this machine, and with some engines its memory.
                    return Err(external(name));
                }
                14 if field.int()? != 0 => return Err(external(name)),
                _ => {}
            }
        }
        if number == 8 {
            return Err(unsupported(&format!("has the tensor `{}` of strings", short(name))));
        }
        let Some(element) = Element::of(number) else {
            let text = format!("has the tensor `{}` of the unknown type {number}", short(name));
            return Err(unsupported(&text));
        };
        let shape = dims.into_iter().map(|dim| u64::try_from(dim).ok()).collect::<Option<Vec<_>>>();
        let shape = shape.filter(|shape| shape.len() <= MAX_RANK);
        let counted = shape.and_then(|shape| Some((count(&shape)?, shape)));
        let Some((elements, shape)) = counted else {
            let text = format!("has the tensor `{}` of an impossible shape", short(name));
            return Err(Refusal::argument(format!("the ONNX model {text}")));
        };
        let bytes = elements.checked_mul(element.bits()).map(|bits| bits.div_ceil(8));
        let sizes = |found: u64, what: &str| {
            Refusal::argument(format!(
                "the ONNX model has the tensor `{}` of the shape {shape:?} with {found} {what}",
                short(name)
            ))
        };
        let data = match (raw, typed) {
            (Some(raw), None) if Some(raw.len() as u64) == bytes => Data::Raw(raw),
            (Some(raw), None) => return Err(sizes(raw.len() as u64, "bytes of data")),
            (None, Some(typed)) => {
                if !typed.holds(element) {
                    return Err(sizes(typed.count, "numbers of another type than its own"));
                }
                if Some(typed.count) != typed.expected(element, elements) {
                    return Err(sizes(typed.count, "numbers"));
                }
                typed.data()?
            }
            (None, None) if elements == 0 => Data::Raw(&[]),
            (None, None) => return Err(sizes(0, "numbers")),
            (Some(_), Some(_)) => {
                return Err(sizes(elements, "numbers in two forms"));
            }
        };
        Ok(Tensor { name, element, shape, data })
    }
}

fn external(name: &str) -> Refusal {
    unsupported(&format!(
        "keeps the tensor `{}` outside of the file: save it as one file, with its data",
        short(name)
    ))
}

/// A tensor's data in fields of a type.
struct Typed {
    /// The number of that field.
    field: u32,
    count: u64,
    ints: Vec<i64>,
}

impl Typed {
    fn new(field: u32) -> Typed {
        Typed { field, count: 0, ints: Vec::new() }
    }

    fn add(&mut self, field: &Field<'_>) -> Result<(), Refusal> {
        match (self.field, &field.value) {
            (4, Wire::Fixed32) | (10, Wire::Fixed64) => self.count += 1,
            (4, Wire::Bytes(bytes, _)) if bytes.len().is_multiple_of(4) => {
                self.count += bytes.len() as u64 / 4;
            }
            (10, Wire::Bytes(bytes, _)) if bytes.len().is_multiple_of(8) => {
                self.count += bytes.len() as u64 / 8;
            }
            (6, Wire::Bytes(..)) => self.count += 1,
            (5 | 7 | 11, Wire::Varint(number)) => self.int(*number),
            (5 | 7 | 11, Wire::Bytes(..)) => {
                let mut packed = field.message()?;
                while let Some(number) = packed.packed()? {
                    self.int(number);
                }
            }
            _ => return Err(field.wrong()),
        }
        Ok(())
    }

    fn int(&mut self, number: u64) {
        self.count += 1;
        if self.count <= KEPT {
            self.ints.push(number as i64);
        }
    }

    /// Whether ONNX keeps elements of that type in this field.
    fn holds(&self, element: Element) -> bool {
        use Element::*;
        match self.field {
            4 => element == F32,
            5 => matches!(element, U8 | I8 | U16 | I16 | I32 | Bool | F16 | Bf16 | F8 | U4 | I4),
            7 => element == I64,
            10 => element == F64,
            11 => matches!(element, U32 | U64),
            _ => false,
        }
    }

    /// How many numbers so many elements are.
    fn expected(&self, element: Element, elements: u64) -> Option<u64> {
        // Two of four bits share a number.
        Some(if element.bits() == 4 { elements.div_ceil(2) } else { elements })
    }

    fn data(self) -> Result<Data<'static>, Refusal> {
        if self.field == 5 && self.ints.iter().any(|&int| i32::try_from(int).is_err()) {
            let text = "the ONNX model has a tensor with a number that does not fit 32 bits";
            return Err(Refusal::argument(text));
        }
        Ok(if self.count == self.ints.len() as u64 { Data::Ints(self.ints) } else { Data::Other })
    }
}
