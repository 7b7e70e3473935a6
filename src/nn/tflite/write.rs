//! Writes TensorFlow Lite files for tests: a model as it is told, whether it
//! can be or not.

/// A tensor: its name, its type by the schema's number, and its shape.
pub(in crate::nn) struct Value {
    pub(in crate::nn) name: &'static str,
    pub(in crate::nn) ty: i8,
    pub(in crate::nn) shape: Vec<i32>,
    /// Which shapes it takes, -1 for any size.
    pub(in crate::nn) signature: Option<Vec<i32>>,
    /// A constant's bytes.
    pub(in crate::nn) data: Option<Vec<u8>>,
    /// Scales, zero points and their dimension.
    pub(in crate::nn) scales: Option<(Vec<f32>, Vec<i64>, i32)>,
}

/// A tensor of f32 that is no constant.
pub(in crate::nn) fn value(name: &'static str, shape: &[i32]) -> Value {
    Value { name, ty: 0, shape: shape.to_vec(), signature: None, data: None, scales: None }
}

/// A constant of f32.
pub(in crate::nn) fn floats(name: &'static str, shape: &[i32], numbers: &[f32]) -> Value {
    let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Value { data: Some(data), ..value(name, shape) }
}

/// A constant of i32.
pub(in crate::nn) fn ints(name: &'static str, shape: &[i32], numbers: &[i32]) -> Value {
    let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Value { data: Some(data), ty: 2, ..value(name, shape) }
}

/// An operator by its code, with the indices of its tensors, and its options:
/// their kind and the fields, each four bytes or nothing.
pub(in crate::nn) struct Step {
    pub(in crate::nn) code: i32,
    pub(in crate::nn) custom: Option<&'static str>,
    pub(in crate::nn) inputs: Vec<i32>,
    pub(in crate::nn) outputs: Vec<i32>,
    pub(in crate::nn) options: Option<(u8, Vec<Option<i32>>)>,
}

/// One without options.
pub(in crate::nn) fn step(code: i32, inputs: &[i32], outputs: &[i32]) -> Step {
    let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
    Step { code, custom: None, inputs, outputs, options: None }
}

/// A part of the file: its own bytes, and at which of them the offsets of
/// which other parts go.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    offsets: Vec<(usize, Part)>,
    /// What its bytes, and what begins behind so many of them, are aligned to.
    align: (usize, usize),
}

/// A field of a table.
enum Field {
    None,
    I8(i8),
    I32(i32),
    Part(Part),
}

fn table(fields: Vec<Field>) -> Part {
    let mut part = Part { align: (4, 0), ..Part::default() };
    let mut places = Vec::new();
    // The way back to the fields, which is set at the end.
    let mut own = vec![0; 4];
    for field in fields {
        if matches!(field, Field::I32(_) | Field::Part(_)) {
            own.resize(own.len().next_multiple_of(4), 0);
        }
        places.push(if matches!(field, Field::None) { 0 } else { own.len() as u16 });
        match field {
            Field::None => {}
            Field::I8(number) => own.extend(number.to_le_bytes()),
            Field::I32(number) => own.extend(number.to_le_bytes()),
            Field::Part(other) => {
                part.offsets.push((own.len(), other));
                own.extend([0; 4]);
            }
        }
    }
    own.resize(own.len().next_multiple_of(4), 0);
    let mut list = vec![0; if places.len() % 2 == 0 { 0 } else { 2 }];
    list.extend((4 + 2 * places.len() as u16).to_le_bytes());
    list.extend((own.len() as u16).to_le_bytes());
    list.extend(places.iter().flat_map(|place| place.to_le_bytes()));
    let back = 4 + 2 * places.len();
    own[..4].copy_from_slice(&(back as i32).to_le_bytes());
    for (at, _) in &mut part.offsets {
        *at += list.len();
    }
    // A table begins behind its fields.
    part.align.1 = list.len();
    part.bytes = [list, own].concat();
    part
}

fn vector(count: usize, bytes: Vec<u8>) -> Part {
    let length = (count as u32).to_le_bytes().to_vec();
    Part { bytes: [length, bytes].concat(), offsets: Vec::new(), align: (4, 0) }
}

fn numbers(numbers: &[i32]) -> Part {
    vector(numbers.len(), numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

fn tables(parts: Vec<Part>) -> Part {
    let mut all = vector(parts.len(), vec![0; 4 * parts.len()]);
    all.offsets = parts.into_iter().enumerate().map(|(n, part)| (4 + 4 * n, part)).collect();
    all
}

fn text(text: &str) -> Part {
    vector(text.len(), [text.as_bytes(), &[0]].concat())
}

/// Puts a part behind what is there, and says where it begins.
fn put(file: &mut Vec<u8>, part: Part) -> usize {
    file.resize(file.len().next_multiple_of(part.align.0), 0);
    let at = file.len();
    file.extend(part.bytes);
    for (place, other) in part.offsets {
        let found = put(file, other);
        let place = at + place;
        file[place..place + 4].copy_from_slice(&((found - place) as u32).to_le_bytes());
    }
    at + part.align.1
}

/// A whole file.
pub(in crate::nn) fn model(
    values: &[Value],
    steps: &[Step],
    inputs: &[i32],
    outputs: &[i32],
) -> Vec<u8> {
    use Field::{I8, I32, None, Part};
    let code = |step: &Step| {
        let custom = step.custom.map_or(None, |name| Part(text(name)));
        table(vec![I8(step.code.min(127) as i8), custom, I32(1), I32(step.code)])
    };
    let tensor = |(n, value): (usize, &Value)| {
        let scales = value.scales.as_ref().map(|(scales, zeros, axis)| {
            let scales =
                vector(scales.len(), scales.iter().flat_map(|n| n.to_le_bytes()).collect());
            let zeros = vector(zeros.len(), zeros.iter().flat_map(|n| n.to_le_bytes()).collect());
            table(vec![None, None, Part(scales), Part(zeros), None, None, I32(*axis)])
        });
        table(vec![
            Part(numbers(&value.shape)),
            I8(value.ty),
            I32(n as i32 + 1),
            Part(text(value.name)),
            scales.map_or(None, Part),
            None,
            None,
            value.signature.as_ref().map_or(None, |dims| Part(numbers(dims))),
        ])
    };
    let operator = |(n, step): (usize, &Step)| {
        let (kind, options) = match &step.options {
            Some((kind, fields)) => {
                let fields = fields.iter().map(|field| field.map_or(None, I32)).collect();
                (I8(*kind as i8), Part(table(fields)))
            }
            Option::None => (None, None),
        };
        table(vec![
            I32(n as i32),
            Part(numbers(&step.inputs)),
            Part(numbers(&step.outputs)),
            kind,
            options,
        ])
    };
    let graph = table(vec![
        Part(tables(values.iter().enumerate().map(tensor).collect())),
        Part(numbers(inputs)),
        Part(numbers(outputs)),
        Part(tables(steps.iter().enumerate().map(operator).collect())),
    ]);
    // The first buffer is that of what has no data.
    let mut buffers = vec![table(vec![])];
    buffers.extend(values.iter().map(|value| match &value.data {
        Some(data) => table(vec![Part(vector(data.len(), data.clone()))]),
        Option::None => table(vec![]),
    }));
    let root = table(vec![
        I32(3),
        Part(tables(steps.iter().map(code).collect())),
        Part(tables(vec![graph])),
        None,
        Part(tables(buffers)),
    ]);
    let mut file = b"\0\0\0\0TFL3".to_vec();
    let at = put(&mut file, root);
    file[..4].copy_from_slice(&(at as u32).to_le_bytes());
    // Options are read with the bytes behind them.
    file.extend([0; 16]);
    file
}
