//! The types of a tensor's elements: OpenVINO's and wasi-nn's names for them.

use openvino_sys::ov_element_type_e as Type;
use wasmtime_wasi_nn::wit::TensorType;

use crate::nn::tensors::Element;

/// The types that wasi-nn has a name for.
const NAMED: [(Type, TensorType); 7] = [
    (Type::F16, TensorType::Fp16),
    (Type::F32, TensorType::Fp32),
    (Type::F64, TensorType::Fp64),
    (Type::BF16, TensorType::Bf16),
    (Type::U8, TensorType::U8),
    (Type::I32, TensorType::I32),
    (Type::I64, TensorType::I64),
];

/// Other types: OpenVINO's name, and the bits of an element.
const OTHERS: [(Type, &str, u64); 9] = [
    (Type::OV_BOOLEAN, "boolean", 8),
    (Type::I4, "i4", 4),
    (Type::I8, "i8", 8),
    (Type::I16, "i16", 16),
    (Type::U1, "u1", 1),
    (Type::U4, "u4", 4),
    (Type::U16, "u16", 16),
    (Type::U32, "u32", 32),
    (Type::U64, "u64", 64),
];

/// The type behind a number of `ov_element_type_e`.
pub(in super::super) fn element(number: u32) -> Element {
    if let Some((_, ty)) = NAMED.iter().find(|(ty, _)| *ty as u32 == number) {
        return Element::Nn(*ty);
    }
    match OTHERS.iter().find(|(ty, ..)| *ty as u32 == number) {
        Some(&(_, name, bits)) => Element::Other(name, Some(bits)),
        None if number == Type::STRING as u32 => Element::Other("string", None),
        None => Element::Other("of another type", None),
    }
}

/// The library's type of what [`element`] gave; none if it has no bytes.
pub(super) fn type_of(element: Element) -> Option<Type> {
    match element {
        Element::Nn(ty) => NAMED.iter().find(|(_, named)| *named == ty).map(|(ty, _)| *ty),
        Element::Other(name, Some(_)) => {
            OTHERS.iter().find(|(_, other, _)| *other == name).map(|(ty, ..)| *ty)
        }
        Element::Other(_, None) | Element::OneOf(..) => None,
    }
}
