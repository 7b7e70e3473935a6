//! A graph's ports, and a tensor that a guest hands over, proven against them
//! before a native library sees it.
//!
//! Pure functions: no I/O, no backend, no allocation that a guest's number
//! decides. A refusal carries the errno that fits best and a full sentence.

use std::fmt::Write as _;

use wasmtime_wasi_nn::wit::TensorType;

use super::refusal::Refusal;

/// The most dimensions of a tensor. OpenVINO itself stops at 8 in most of its
/// operators.
pub(super) const MAX_RANK: usize = 8;

/// The type of a port's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// One that wasi-nn has a name for.
    Nn(TensorType),
    /// One that it has none for: the model's name for it, and the bits of one
    /// element if that is fixed.
    Other(&'static str, Option<u64>),
    /// Any of these, whichever a tensor comes in: the model's name for it.
    #[cfg_attr(not(feature = "pytorch"), expect(dead_code, reason = "only TorchScript has them"))]
    OneOf(&'static str, &'static [TensorType]),
}

impl Element {
    /// Whether a tensor of a type of wasi-nn's may be handed over for it: its own,
    /// or bytes for what has a byte and no name there, as an output gives them.
    fn takes(self, ty: TensorType) -> bool {
        match self {
            Element::Nn(own) => own == ty,
            Element::Other(_, bits) => bits == Some(8) && ty == TensorType::U8,
            Element::OneOf(_, types) => types.contains(&ty),
        }
    }

    /// Its name as models have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Element::Nn(ty) => name(ty),
            Element::Other(name, _) | Element::OneOf(name, _) => name,
        }
    }

    pub(super) fn bits(self) -> Option<u64> {
        match self {
            Element::Nn(ty) => Some(size(ty) * 8),
            Element::Other(_, bits) => bits,
            Element::OneOf(..) => None,
        }
    }
}

/// One dimension of a port: both ends are included, no `max` means any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dim {
    pub(super) min: u64,
    pub(super) max: Option<u64>,
}

impl Dim {
    fn fixed(self) -> Option<u64> {
        (self.max == Some(self.min)).then_some(self.min)
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// The model's name for it; empty if it has none.
    pub(super) name: String,
    pub(super) element: Element,
    /// None if even the rank is open.
    pub(super) shape: Option<Vec<Dim>>,
}

impl Port {
    /// Whether its elements are bytes. Strings are pointers into this process.
    #[cfg_attr(not(feature = "openvino"), allow(dead_code, reason = "OpenVINO's alone"))]
    pub(super) fn has_bytes(&self) -> bool {
        self.element.bits().is_some()
    }

    /// Bytes of the port's tensor: `Ok(None)` if its shape is open.
    ///
    /// # Errors
    ///
    /// The product does not fit 64 bits.
    pub(super) fn bytes(&self) -> Result<Option<u64>, Refusal> {
        let (Some(shape), Some(bits)) = (&self.shape, self.element.bits()) else {
            return Ok(None);
        };
        let Some(dims) = shape.iter().map(|dim| dim.fixed()).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        product(dims.into_iter())
            .and_then(|elements| elements.checked_mul(bits))
            .map(|bits| Some(bits.div_ceil(8)))
            .ok_or_else(|| {
                Refusal::too_large(format!("the model's port {self} is larger than 64 bits count"))
            })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.name.is_empty() {
            write!(f, "`{}` ", self.name)?;
        }
        write!(f, "{} ", self.element.name())?;
        let Some(shape) = &self.shape else { return f.write_str("[...]") };
        f.write_char('[')?;
        for (i, dim) in shape.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match (dim.fixed(), dim.min, dim.max) {
                (Some(n), ..) => write!(f, "{comma}{n}")?,
                (None, 0, None) => write!(f, "{comma}?")?,
                (None, min, None) => write!(f, "{comma}{min}..")?,
                (None, min, Some(max)) => write!(f, "{comma}{min}..{max}")?,
            }
        }
        f.write_char(']')
    }
}

/// A type's name as models have it.
pub(super) fn name(ty: TensorType) -> &'static str {
    match ty {
        TensorType::Fp16 => "f16",
        TensorType::Fp32 => "f32",
        TensorType::Fp64 => "f64",
        TensorType::Bf16 => "bf16",
        TensorType::U8 => "u8",
        TensorType::I32 => "i32",
        TensorType::I64 => "i64",
    }
}

/// Bytes of one element.
pub(super) fn size(ty: TensorType) -> u64 {
    match ty {
        TensorType::U8 => 1,
        TensorType::Fp16 | TensorType::Bf16 => 2,
        TensorType::Fp32 | TensorType::I32 => 4,
        TensorType::Fp64 | TensorType::I64 => 8,
    }
}

/// Proves a tensor for a graph's input: rank, size, type and shape.
pub(super) fn check(
    inputs: &[Port],
    index: u32,
    ty: TensorType,
    shape: &[u32],
    bytes: usize,
) -> Result<(), Refusal> {
    let port = input(inputs, index)?;
    if shape.len() > MAX_RANK {
        return Err(rank(shape.len()));
    }
    let expected = product(shape.iter().map(|&dim| u64::from(dim)))
        .and_then(|elements| elements.checked_mul(size(ty)));
    if expected != Some(bytes as u64) {
        let expected =
            expected.map_or("more bytes than 64 bits count".into(), |n| format!("{n} bytes"));
        return Err(Refusal::argument(format!(
            "the tensor for input {index} has {bytes} bytes, but its shape {shape:?} of {} says {expected}",
            name(ty)
        )));
    }
    if !port.element.takes(ty) {
        let unnamed = match port.element {
            Element::Nn(_) | Element::OneOf(..) => "",
            Element::Other(..) => ", a type that wasi-nn has no name for",
        };
        return Err(Refusal::argument(format!(
            "the tensor for input {index} is {}, but the model's input is {port}{unnamed}",
            name(ty)
        )));
    }
    let Some(dims) = &port.shape else { return Ok(()) };
    let fits = dims.len() == shape.len()
        && dims.iter().zip(shape).all(|(dim, &n)| {
            let n = u64::from(n);
            n >= dim.min && dim.max.is_none_or(|max| n <= max)
        });
    if !fits {
        return Err(Refusal::argument(format!(
            "the tensor for input {index} has the shape {shape:?}, but the model's input is {port}"
        )));
    }
    Ok(())
}

/// The input of that index.
pub(super) fn input(inputs: &[Port], index: u32) -> Result<&Port, Refusal> {
    inputs.get(index as usize).ok_or_else(|| {
        Refusal::argument(format!("there is no input {index}: the model has {}", inputs.len()))
    })
}

/// The refusal of a tensor with too many dimensions.
pub(super) fn rank(rank: usize) -> Refusal {
    Refusal::argument(format!("the tensor has {rank} dimensions, more than {MAX_RANK}"))
}

// None if the product does not fit. A zero anywhere makes it zero, whatever
// the others are.
fn product(dims: impl Iterator<Item = u64> + Clone) -> Option<u64> {
    if dims.clone().any(|dim| dim == 0) {
        return Some(0);
    }
    dims.into_iter().try_fold(1u64, u64::checked_mul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn port(dims: &[(u64, Option<u64>)]) -> Port {
        Port {
            name: "x".into(),
            element: Element::Nn(TensorType::Fp32),
            shape: Some(dims.iter().map(|&(min, max)| Dim { min, max }).collect()),
        }
    }

    fn image() -> Vec<Port> {
        vec![port(&[(1, Some(1)), (3, Some(3)), (4, Some(4))])]
    }

    #[test]
    fn a_tensor_that_fits_is_taken() {
        assert_eq!(check(&image(), 0, TensorType::Fp32, &[1, 3, 4], 48), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_refused_in_full_sentences() {
        let cases: &[(u32, TensorType, &[u32], usize, &str)] = &[
            (1, TensorType::Fp32, &[1, 3, 4], 48, "there is no input 1: the model has 1"),
            (
                0,
                TensorType::Fp32,
                &[1, 3, 4],
                47,
                "the tensor for input 0 has 47 bytes, but its shape [1, 3, 4] of f32 says 48 bytes",
            ),
            (
                0,
                TensorType::U8,
                &[1, 3, 16],
                48,
                "the tensor for input 0 is u8, but the model's input is `x` f32 [1,3,4]",
            ),
            (
                0,
                TensorType::Fp32,
                &[3, 4],
                48,
                "the tensor for input 0 has the shape [3, 4], but the model's input is `x` f32 [1,3,4]",
            ),
            (0, TensorType::Fp32, &[1; 9], 4, "the tensor has 9 dimensions, more than 8"),
            (
                0,
                TensorType::Fp64,
                &[u32::MAX; 8],
                0,
                "the tensor for input 0 has 0 bytes, but its shape [4294967295, 4294967295, 4294967295, 4294967295, \
                 4294967295, 4294967295, 4294967295, 4294967295] of f64 says more bytes than 64 bits count",
            ),
        ];
        for &(index, ty, shape, bytes, text) in cases {
            let refusal = check(&image(), index, ty, shape, bytes).expect_err(text);
            assert_eq!(refusal, Refusal::argument(text));
        }
    }

    #[test]
    fn an_empty_tensor_with_huge_dimensions_is_refused() {
        // ARCHITECTURE.md, case 29: the stock backend commits 16 GiB for it.
        let open = [port(&[(0, None)])];
        assert!(check(&open, 0, TensorType::Fp32, &[1 << 31], 0).is_err());
    }

    #[test]
    fn open_dimensions_are_respected_within_their_bounds() {
        let batch = [port(&[(1, Some(4)), (2, Some(2))])];
        assert_eq!(batch[0].to_string(), "`x` f32 [1..4,2]");
        assert_eq!(check(&batch, 0, TensorType::Fp32, &[4, 2], 32), Ok(()));
        assert!(check(&batch, 0, TensorType::Fp32, &[5, 2], 40).is_err());
        assert!(check(&batch, 0, TensorType::Fp32, &[0, 2], 0).is_err());
        assert_eq!(batch[0].bytes(), Ok(None));
        assert_eq!(image()[0].bytes(), Ok(Some(48)));
    }

    #[test]
    fn a_type_without_a_name_is_refused_by_name() {
        let flags = [Port {
            name: String::new(),
            element: Element::Other("boolean", Some(8)),
            shape: Some(vec![Dim { min: 4, max: Some(4) }]),
        }];
        assert_eq!(check(&flags, 0, TensorType::U8, &[4], 4), Ok(()), "a byte each");
        let refusal = check(&flags, 0, TensorType::I32, &[4], 16).expect_err("no such type");
        assert_eq!(
            refusal.text,
            "the tensor for input 0 is i32, but the model's input is boolean [4], \
             a type that wasi-nn has no name for"
        );
    }

    proptest! {
        #[test]
        fn a_tensor_is_only_taken_when_its_bytes_are_those_of_its_shape(
            shape in proptest::collection::vec(any::<u32>(), 0..10),
            bytes in any::<usize>(),
        ) {
            let open = [Port { name: String::new(), element: Element::Nn(TensorType::I64), shape: None }];
            let exact = match shape.contains(&0) {
                true => Some(0),
                false => shape.iter().try_fold(8u128, |n, &dim| n.checked_mul(u128::from(dim))),
            };
            let taken = check(&open, 0, TensorType::I64, &shape, bytes).is_ok();
            prop_assert_eq!(taken, shape.len() <= MAX_RANK && exact == Some(bytes as u128));
        }
    }
}
