//! Writes parts of ONNX files: each function gives the bytes of one field. What
//! stands in the place of nodes is made of them, and so are the tests' models.

/// A number, in as few bytes as it takes.
pub(in crate::nn) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field with a number.
pub(in crate::nn) fn int(field: u64, number: i64) -> Vec<u8> {
    [varint(field << 3), varint(number as u64)].concat()
}

/// A field with bytes: a text, a message.
pub(in crate::nn) fn bytes(field: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&varint(field << 3 | 2), &varint(bytes.len() as u64), bytes].concat()
}

/// A node and its attributes.
pub(in crate::nn) fn node(
    op: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: &[Vec<u8>],
) -> Vec<u8> {
    let mut fields: Vec<_> = inputs.iter().map(|name| bytes(1, name)).collect();
    fields.extend(outputs.iter().map(|name| bytes(2, name)));
    let name = outputs.first().unwrap_or(&op);
    fields.extend([bytes(3, name), bytes(4, op)]);
    fields.extend_from_slice(attributes);
    bytes(1, fields.concat())
}

/// A whole number as an attribute.
pub(in crate::nn) fn attribute(name: &str, number: i64) -> Vec<u8> {
    bytes(5, [bytes(1, name), int(3, number), int(20, 2)].concat())
}

/// Whole numbers as an attribute.
pub(in crate::nn) fn list(name: &str, numbers: &[i64]) -> Vec<u8> {
    let numbers: Vec<_> = numbers.iter().map(|&number| int(8, number)).collect();
    bytes(5, [bytes(1, name), numbers.concat(), int(20, 7)].concat())
}

/// A tensor of `i64`.
pub(in crate::nn) fn ints(name: &str, shape: &[i64], numbers: &[i64]) -> Vec<u8> {
    let data: Vec<_> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    tensor(name, 7, shape, &data)
}

/// A tensor of `f32`.
#[cfg(test)]
pub(in crate::nn) fn floats(name: &str, shape: &[i64], numbers: &[f32]) -> Vec<u8> {
    let data: Vec<_> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    tensor(name, 1, shape, &data)
}

/// A tensor of a type by ONNX's number.
pub(in crate::nn) fn tensor(name: &str, ty: i64, shape: &[i64], data: &[u8]) -> Vec<u8> {
    // Dimensions one by one, as exporters write them and rten alone reads them.
    let mut fields: Vec<_> = shape.iter().map(|&dim| int(1, dim)).collect();
    fields.extend([int(2, ty), bytes(8, name), bytes(9, data)]);
    bytes(5, fields.concat())
}

/// An input of a type by ONNX's number; -1 is an open dimension.
#[cfg(test)]
pub(in crate::nn) fn input(name: &str, ty: i64, shape: &[i64]) -> Vec<u8> {
    value(11, name, ty, shape)
}

/// An output, as [`input`].
#[cfg(test)]
pub(in crate::nn) fn output(name: &str, ty: i64, shape: &[i64]) -> Vec<u8> {
    value(12, name, ty, shape)
}

#[cfg(test)]
fn value(field: u64, name: &str, ty: i64, shape: &[i64]) -> Vec<u8> {
    let dims: Vec<_> = shape.iter().map(|&dim| bytes(1, int(1, dim))).collect();
    let ty = bytes(1, [int(1, ty), bytes(2, dims.concat())].concat());
    bytes(field, [bytes(1, name), bytes(2, ty)].concat())
}

/// A model of a graph's fields.
#[cfg(test)]
pub(in crate::nn) fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    let opset = bytes(8, int(2, 17));
    [int(1, 8), bytes(7, graph.concat()), opset].concat()
}

/// A graph as an attribute.
#[cfg(test)]
pub(in crate::nn) fn branch(name: &str, graph: &[Vec<u8>]) -> Vec<u8> {
    bytes(5, [bytes(1, name), bytes(6, graph.concat()), int(20, 5)].concat())
}

/// `y = relu(x + [1, 2, 3, 4])` for `x` of f32 \[?, 4\].
#[cfg(test)]
pub(in crate::nn) fn add() -> Vec<u8> {
    model(&[
        input("x", 1, &[-1, 4]),
        floats("b", &[4], &[1.0, 2.0, 3.0, 4.0]),
        node("Add", &["x", "b"], &["sum"], &[]),
        node("Relu", &["sum"], &["y"], &[]),
        output("y", 1, &[-1, 4]),
    ])
}
