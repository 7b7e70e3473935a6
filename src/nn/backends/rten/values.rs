//! Tensors between wasi-nn, which has ONNX's types, and rten, which has fewer.
//!
//! rten computes `i64` and `bool` in 32 bits. What does not fit is refused.

use ::rten::{Value, ValueView};
use rten_tensor::{AsView as _, Layout as _};
use wasmtime_wasi_nn::wit::TensorType;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::nn::bytes::Bytes;
use crate::nn::onnx::{self, Graph};
use crate::nn::refusal::{Errno, Refusal};
use crate::nn::tensors::{Dim, Element, Port};

/// How an element is kept in rten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    I32,
    I64,
    U8,
    I8,
    Bool,
}

impl Kind {
    fn of(element: onnx::Element) -> Option<Kind> {
        Some(match element {
            onnx::Element::F32 => Kind::F32,
            onnx::Element::I32 => Kind::I32,
            onnx::Element::I64 => Kind::I64,
            onnx::Element::U8 => Kind::U8,
            onnx::Element::I8 => Kind::I8,
            onnx::Element::Bool => Kind::Bool,
            _ => return None,
        })
    }

    fn element(self) -> Element {
        match self {
            Kind::F32 => Element::Nn(TensorType::Fp32),
            Kind::I32 => Element::Nn(TensorType::I32),
            Kind::I64 => Element::Nn(TensorType::I64),
            Kind::U8 => Element::Nn(TensorType::U8),
            Kind::I8 => Element::Other("i8", Some(8)),
            Kind::Bool => Element::Other("boolean", Some(8)),
        }
    }

    /// Of a port that [`ports`] has made.
    pub(super) fn of_port(port: &Port) -> Kind {
        let kinds = [Kind::F32, Kind::I32, Kind::I64, Kind::U8, Kind::I8, Kind::Bool];
        let kind = kinds.into_iter().find(|kind| kind.element() == port.element);
        kind.expect("a port is of a kind")
    }
}

/// The inputs and outputs of a model, which are tensors of a kind.
pub(super) fn ports(graph: &Graph<'_>) -> Result<(Vec<Port>, Vec<Port>), Refusal> {
    let given = |value: &&onnx::Value<'_>| {
        !graph.initializers.iter().any(|tensor| tensor.name == value.name)
    };
    let inputs = graph.inputs.iter().filter(given).map(port).collect::<Result<_, _>>()?;
    let outputs = graph.outputs.iter().map(port).collect::<Result<_, _>>()?;
    Ok((inputs, outputs))
}

fn port(value: &onnx::Value<'_>) -> Result<Port, Refusal> {
    let unsupported = |what: String| {
        let text = format!("rten refuses the model: `{}` is {what}", onnx::short(value.name));
        Refusal::new(Errno::UnsupportedOperation, text)
    };
    let ty = value.tensor.as_ref().ok_or_else(|| unsupported("no tensor".to_owned()))?;
    let kind = Kind::of(ty.element).ok_or_else(|| {
        unsupported(format!("of {:?}, and it has f32, i32, i64, u8, i8 and bool", ty.element))
    })?;
    let dim = |dim: &Option<u64>| Dim { min: dim.unwrap_or(0), max: *dim };
    Ok(Port {
        name: value.name.to_owned(),
        element: kind.element(),
        shape: ty.shape.as_ref().map(|dims| dims.iter().map(dim).collect()),
    })
}

/// An input, as it is computed with.
pub(super) enum Input {
    /// Copied, and converted where rten has another type for it.
    Value(Value),
    /// Bytes as they came, of this shape.
    Given(Kind, Vec<usize>, Bytes),
}

impl Input {
    /// Bytes as they came, as many as the shape says; back again if rten has
    /// another type for them.
    pub(super) fn given(kind: Kind, shape: &[u32], bytes: Bytes) -> Result<Input, Bytes> {
        match kind {
            Kind::F32 | Kind::I32 | Kind::U8 | Kind::I8 => {
                Ok(Input::Given(kind, shape.iter().map(|&dim| dim as usize).collect(), bytes))
            }
            Kind::I64 | Kind::Bool => Err(bytes),
        }
    }

    /// Its dimensions.
    pub(super) fn dims(&self) -> Vec<usize> {
        match self {
            Input::Value(value) => value.shape().to_vec(),
            Input::Given(_, shape, _) => shape.clone(),
        }
    }

    /// What rten computes with.
    pub(super) fn view(&self) -> Result<ValueView<'_>, String> {
        let (kind, shape, bytes) = match self {
            Input::Value(value) => return Ok(value.into()),
            Input::Given(kind, shape, bytes) => (kind, shape, bytes.as_ref()),
        };
        macro_rules! elements {
            ($ty:ty) => {{
                let elements = <[$ty]>::ref_from_bytes(bytes).map_err(|error| error.to_string())?;
                ValueView::from_shape(shape, elements).map_err(|error| error.to_string())
            }};
        }
        match kind {
            Kind::F32 => elements!(f32),
            Kind::I32 => elements!(i32),
            Kind::U8 => elements!(u8),
            Kind::I8 => elements!(i8),
            Kind::I64 | Kind::Bool => Err("it is of a type that rten does not have".to_owned()),
        }
    }
}

/// Copies a tensor's bytes, as many as its shape says, into an input: the one
/// that is there, if it is of the same shape, or a new one.
pub(super) fn write(
    slot: &mut Option<Input>,
    kind: Kind,
    shape: &[u32],
    data: &[u8],
) -> Result<(), String> {
    let shape: Vec<usize> = shape.iter().map(|&dim| dim as usize).collect();
    // Taken, so that nothing half-written stays.
    let old = match slot.take() {
        Some(Input::Value(value)) if value.shape().as_slice() == shape => Some(value),
        _ => None,
    };
    let error = "its shape has another number of elements";
    macro_rules! plain {
        ($variant:ident, $ty:ty) => {{
            let mut tensor = match old {
                Some(Value::$variant(tensor)) => tensor,
                _ => {
                    let zeros: Vec<$ty> = vec![0 as $ty; data.len() / size_of::<$ty>()];
                    let value = Value::from_shape(&shape, zeros).map_err(|_| error)?;
                    let Value::$variant(tensor) = value else { return Err(error.to_owned()) };
                    tensor
                }
            };
            let elements =
                tensor.data_mut().filter(|elements| size_of_val(*elements) == data.len());
            elements.ok_or(error)?.as_mut_bytes().copy_from_slice(data);
            Value::$variant(tensor)
        }};
    }
    *slot = Some(Input::Value(match kind {
        Kind::F32 => plain!(FloatTensor, f32),
        Kind::I32 => plain!(Int32Tensor, i32),
        Kind::U8 => plain!(UInt8Tensor, u8),
        Kind::I8 => plain!(Int8Tensor, i8),
        Kind::I64 => {
            let narrow = |(at, word): (usize, &[u8; 8])| {
                let number = i64::from_le_bytes(*word);
                i32::try_from(number).map_err(|_| {
                    format!("its element {at} is {number}, and rten computes i64 in 32 bits")
                })
            };
            let numbers = data.as_chunks().0.iter().enumerate().map(narrow);
            let numbers = numbers.collect::<Result<Vec<i32>, String>>()?;
            Value::from_shape(&shape, numbers).map_err(|_| error)?
        }
        Kind::Bool => {
            let numbers: Vec<i32> = data.iter().map(|&byte| i32::from(byte != 0)).collect();
            Value::from_shape(&shape, numbers).map_err(|_| error)?
        }
    }));
    Ok(())
}

/// A value's bytes where they lie as those of its kind do.
pub(super) fn plain(value: &Value, kind: Kind) -> Option<&[u8]> {
    match (value, kind) {
        (Value::FloatTensor(tensor), Kind::F32) => tensor.data().map(|data| data.as_bytes()),
        (Value::Int32Tensor(tensor), Kind::I32) => tensor.data().map(|data| data.as_bytes()),
        (Value::UInt8Tensor(tensor), Kind::U8) => tensor.data(),
        (Value::Int8Tensor(tensor), Kind::I8) => tensor.data().map(|data| data.as_bytes()),
        _ => None,
    }
}

/// Shows a value's bytes as those of its kind.
pub(super) fn show(value: &Value, kind: Kind, show: &mut dyn FnMut(&[u8])) -> Result<(), String> {
    if let Some(bytes) = plain(value, kind) {
        show(bytes);
        return Ok(());
    }
    match (value, kind) {
        // Their elements lie in another order.
        (Value::FloatTensor(tensor), Kind::F32) => show(tensor.to_vec().as_bytes()),
        (Value::Int32Tensor(tensor), Kind::I32) => show(tensor.to_vec().as_bytes()),
        (Value::UInt8Tensor(tensor), Kind::U8) => show(&tensor.to_vec()),
        (Value::Int8Tensor(tensor), Kind::I8) => show(tensor.to_vec().as_bytes()),
        (Value::Int32Tensor(tensor), Kind::I64) => {
            let wide: Vec<i64> = tensor.iter().map(|&number| number.into()).collect();
            show(wide.as_bytes());
        }
        (Value::Int32Tensor(tensor), Kind::Bool) => {
            let bytes: Vec<u8> = tensor.iter().map(|&number| u8::from(number != 0)).collect();
            show(&bytes);
        }
        (value, kind) => {
            return Err(format!("it is {}, and the model declares {kind:?}", value.dtype()));
        }
    }
    Ok(())
}
