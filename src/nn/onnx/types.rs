//! What the file says of its values: their types and shapes.

use super::read::{Parser, unsupported};
use super::wire::{Once, Reader, malformed};
use super::{Element, Type, Value, short};
use crate::nn::refusal::Refusal;

/// The most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 16;

/// The most bytes that a tensor may declare. Nothing so large fits a task.
const MAX_TENSOR: u64 = 16 << 30;

/// The most types inside each other (sequences of optional tensors and such).
const MAX_TYPES: usize = 8;

impl Parser {
    pub(super) fn value<'a>(&mut self, mut reader: Reader<'a>) -> Result<Value<'a>, Refusal> {
        self.part()?;
        let (mut once, mut name, mut ty) = (Once::default(), "", None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    once.see(&field)?;
                    name = field.text()?;
                }
                2 => {
                    once.see(&field)?;
                    ty = Some(field.message()?);
                }
                _ => {}
            }
        }
        let tensor = match ty {
            Some(ty) => self.ty(ty, name, 0)?,
            None => None,
        };
        Ok(Value { name, tensor })
    }

    /// What is a tensor's type; none for others.
    fn ty(
        &mut self,
        mut reader: Reader<'_>,
        name: &str,
        depth: usize,
    ) -> Result<Option<Type>, Refusal> {
        if depth == MAX_TYPES {
            let text = format!(
                "the ONNX model's value `{}` is of a type that nests too deeply",
                short(name)
            );
            return Err(Refusal::too_large(text));
        }
        let (mut seen, mut tensor) = (false, None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 | 4 | 5 | 7 | 8 | 9 if seen => {
                    return Err(malformed(field.at, "has a value of two types"));
                }
                1 => tensor = Some(self.tensor_type(field.message()?, name)?),
                // A sequence's and an optional's element, a map's value.
                4 | 9 => self.inner(field.message()?, 1, name, depth)?,
                5 => self.inner(field.message()?, 2, name, depth)?,
                7 | 8 => return Err(unsupported("has a value of a sparse or opaque type")),
                _ => continue,
            }
            seen = true;
        }
        Ok(tensor)
    }

    fn inner(
        &mut self,
        mut reader: Reader<'_>,
        at: u32,
        name: &str,
        depth: usize,
    ) -> Result<(), Refusal> {
        let mut once = Once::default();
        while let Some(field) = reader.next()? {
            if field.number == at {
                once.see(&field)?;
                self.ty(field.message()?, name, depth + 1)?;
            }
        }
        Ok(())
    }

    fn tensor_type(&mut self, mut reader: Reader<'_>, name: &str) -> Result<Type, Refusal> {
        let (mut once, mut number, mut shape) = (Once::default(), 0, None);
        while let Some(field) = reader.next()? {
            match field.number {
                1 => {
                    once.see(&field)?;
                    number = field.int()?;
                }
                2 => {
                    once.see(&field)?;
                    shape = Some(self.shape(field.message()?)?);
                }
                _ => {}
            }
        }
        if number == 8 {
            return Err(unsupported(&format!("has the value `{}` of strings", short(name))));
        }
        let Some(element) = Element::of(number) else {
            let text = format!("has the value `{}` of the unknown type {number}", short(name));
            return Err(unsupported(&text));
        };
        let known: Vec<_> = shape.iter().flatten().flatten().copied().collect();
        let bytes = count(&known).and_then(|elements| elements.checked_mul(element.bits()));
        let fits = bytes.is_some_and(|bits| bits / 8 <= MAX_TENSOR);
        if !fits || shape.as_ref().is_some_and(|shape: &Vec<_>| shape.len() > MAX_RANK) {
            return Err(Refusal::too_large(format!(
                "the ONNX model's value `{}` is declared with the dimensions {known:?}: more than \
                 {MAX_TENSOR} bytes or {MAX_RANK} dimensions",
                short(name)
            )));
        }
        Ok(Type { element, shape })
    }

    fn shape(&mut self, mut reader: Reader<'_>) -> Result<Vec<Option<u64>>, Refusal> {
        let mut dims = Vec::new();
        while let Some(field) = reader.next()? {
            if field.number != 1 {
                continue;
            }
            self.part()?;
            let (mut dim, mut seen) = (field.message()?, None);
            while let Some(field) = dim.next()? {
                let open = match field.number {
                    1 => match field.int()? {
                        // What exporters write for a size that they don't know.
                        -1 => None,
                        size => match u64::try_from(size) {
                            Ok(size) => Some(size),
                            Err(_) => return Err(malformed(field.at, "has a negative dimension")),
                        },
                    },
                    2 => {
                        field.text()?;
                        None
                    }
                    _ => continue,
                };
                if seen.replace(open).is_some() {
                    return Err(malformed(field.at, "has a dimension with two sizes"));
                }
            }
            dims.push(seen.flatten());
        }
        Ok(dims)
    }
}

/// The elements of a shape.
pub(super) fn count(shape: &[u64]) -> Option<u64> {
    // A zero anywhere makes it none, and what is beside it must still fit.
    let product =
        shape.iter().filter(|&&dim| dim != 0).try_fold(1u64, |n, &dim| n.checked_mul(dim))?;
    Some(if shape.contains(&0) { 0 } else { product })
}
