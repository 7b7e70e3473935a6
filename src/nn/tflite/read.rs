//! From the tables of a TensorFlow Lite file to a model.

use std::collections::HashSet;

use super::flat::{Table, Tables, malformed};
use super::names::NAMES;
use super::{Element, Model, Operator, Tensor, short};
use crate::nn::refusal::{Errno, Refusal};

/// The most operators.
pub(in crate::nn) const MAX_OPERATORS: usize = 100_000;

/// The most tensors, dimensions, inputs, outputs and scales that are read: a
/// few bytes of a file can refer to the same ones again and again.
const MAX_PARTS: usize = 2_000_000;

/// The most dimensions of a tensor.
const MAX_RANK: usize = 16;

/// How often the bytes of constants may be used: each use is a copy.
const MOST_COPIES: u64 = 4;

/// From this number on, an operator's code stands in a wider field.
const WIDER: i8 = 127;

/// Numbers of the kinds of options that are looked at.
const RESHAPE_OPTIONS: i8 = 17;
const GATHER_OPTIONS: i8 = 23;
const SQUEEZE_OPTIONS: i8 = 30;

/// What an option takes at most, in bytes.
const WIDEST_OPTION: usize = 8;

pub(super) fn model(file: &[u8]) -> Result<Model<'_>, Refusal> {
    let root = Table::root(file)?;
    let codes = required(&root, root.tables(1)?, "operator codes")?;
    let graphs = required(&root, root.tables(2)?, "graph")?;
    let buffers = required(&root, root.tables(4)?, "buffers")?;
    if graphs.len() != 1 {
        return Err(unsupported(&format!(
            "has {} graphs: only those without branches and loops, which have one, are taken",
            graphs.len()
        )));
    }
    let graph = graphs.get(0)?;
    let mut reader = Reader { buffers, parts: 0, constants: 0 };
    let tables = required(&graph, graph.tables(0)?, "tensors")?;
    reader.count(tables.len())?;
    let tensors =
        tables.iter().map(|table| reader.tensor(&table?)).collect::<Result<Vec<_>, _>>()?;
    if reader.constants > MOST_COPIES * file.len() as u64 {
        return Err(Refusal::too_large(format!(
            "the TensorFlow Lite model's constants take {} bytes, and its file has {}: some are \
             used more than {MOST_COPIES} times",
            reader.constants,
            file.len()
        )));
    }
    let (inputs, outputs) = (reader.indices(&graph, 1)?, reader.indices(&graph, 2)?);
    let list = required(&graph, graph.tables(3)?, "operators")?;
    if list.len() > MAX_OPERATORS {
        let text = format!("the TensorFlow Lite model has more than {MAX_OPERATORS} operators");
        return Err(Refusal::too_large(text));
    }
    let operators = list.iter().map(|table| reader.operator(&table?, codes, &tensors));
    let model = Model {
        operators: operators.collect::<Result<Vec<_>, _>>()?,
        inputs: all(inputs, &tensors, &graph)?,
        outputs: all(outputs, &tensors, &graph)?,
        tensors,
    };
    prove_order(&model)?;
    Ok(model)
}

fn unsupported(what: &str) -> Refusal {
    Refusal::new(Errno::UnsupportedOperation, format!("the TensorFlow Lite model {what}"))
}

fn wrong(what: &str) -> Refusal {
    Refusal::argument(format!("the TensorFlow Lite model {what}"))
}

fn required<T>(table: &Table<'_>, part: Option<T>, what: &str) -> Result<T, Refusal> {
    part.ok_or_else(|| malformed(table.at(), &format!("has no {what}")))
}

struct Reader<'a> {
    buffers: Tables<'a>,
    parts: usize,
    /// Bytes of all constants.
    constants: u64,
}

impl<'a> Reader<'a> {
    fn count(&mut self, parts: usize) -> Result<(), Refusal> {
        self.parts = self.parts.saturating_add(parts);
        if self.parts > MAX_PARTS {
            return Err(Refusal::too_large(format!(
                "the TensorFlow Lite model has more than {MAX_PARTS} tensors, dimensions and \
                 connections"
            )));
        }
        Ok(())
    }

    /// A list of numbers that has to be there.
    fn indices(&mut self, table: &Table<'a>, field: usize) -> Result<Vec<i32>, Refusal> {
        let bytes = required(table, table.vector(field, 4)?, "inputs or outputs")?;
        self.count(bytes.len() / 4)?;
        Ok(table.ints(field)?.unwrap_or_default())
    }

    fn tensor(&mut self, table: &Table<'a>) -> Result<Tensor<'a>, Refusal> {
        let name = required(table, table.text(3)?, "name for a tensor")?;
        let title = || format!("the tensor `{}`", short(name));
        let number = table.i8(1)?;
        let element = Element::of(number).ok_or_else(|| {
            unsupported(&format!("has {} of the type {number}, which is not taken", title()))
        })?;
        for (field, what) in [(5, "a variable"), (6, "sparse")] {
            if table.has(field)? && (field == 6 || table.i8(field)? != 0) {
                return Err(unsupported(&format!("has {} that is {what}", title())));
            }
        }
        let sizes = |field| -> Result<Option<Vec<i32>>, Refusal> {
            let bytes = table.vector(field, 4)?;
            if bytes.is_some_and(|bytes| bytes.len() / 4 > MAX_RANK) {
                return Err(wrong(&format!("has {} of more than {MAX_RANK} dimensions", title())));
            }
            table.ints(field)
        };
        let (shape, signature) = (sizes(0)?.unwrap_or_default(), sizes(7)?);
        if signature.as_ref().is_some_and(|signature| signature.len() != shape.len()) {
            return Err(wrong(&format!("has two shapes for {}", title())));
        }
        let dims = signature.as_ref().unwrap_or(&shape).iter();
        let shape: Option<Vec<Option<u64>>> =
            // -1 is an open dimension, in a signature alone.
            dims.map(|&dim| match u64::try_from(dim) {
                Ok(dim) => Some(Some(dim)),
                Err(_) if dim == -1 && signature.is_some() => Some(None),
                Err(_) => None,
            })
            .collect();
        let shape = shape.ok_or_else(|| wrong(&format!("has a negative size in {}", title())))?;
        self.count(1 + shape.len())?;
        let mut tensor = Tensor { name, element, shape, data: None, quantized: false };
        let index = table.u32(2)? as usize;
        if index >= self.buffers.len() {
            return Err(wrong(&format!("has no buffer {index}, which {} is in", title())));
        }
        let buffer = self.buffers.get(index)?;
        if buffer.has(1)? || buffer.has(2)? || table.has(10)? {
            return Err(unsupported(&format!("has {} outside the file's tables", title())));
        }
        tensor.data = buffer.vector(0, 1)?.filter(|data| !data.is_empty());
        if let Some(data) = tensor.data {
            let needs = tensor.fixed().and(tensor.bytes());
            if needs != Some(data.len() as u64) {
                return Err(wrong(&format!(
                    "has {} bytes for {}, whose shape takes {}",
                    data.len(),
                    title(),
                    needs.map_or("more than can be".to_owned(), |needs| needs.to_string())
                )));
            }
            self.constants += data.len() as u64;
        }
        if tensor.bytes().is_none_or(|bytes| i64::try_from(bytes).is_err()) {
            return Err(wrong(&format!("has {} of a size that can't be", title())));
        }
        tensor.quantized = self.quantization(table, &tensor)?;
        Ok(tensor)
    }

    /// Proves the scales of a tensor, and says whether it has any.
    fn quantization(&mut self, table: &Table<'a>, tensor: &Tensor<'a>) -> Result<bool, Refusal> {
        let Some(quantization) = table.table(4)? else { return Ok(false) };
        let scales = quantization.vector(2, 4)?.map_or(0, |scales| scales.len() / 4);
        let zeros = quantization.vector(3, 8)?.map_or(0, |zeros| zeros.len() / 8);
        self.count(scales.saturating_add(zeros))?;
        let axis = usize::try_from(quantization.i32(6)?).ok();
        // Engines write a list's length into the shape at this place.
        let along = axis.and_then(|axis| *tensor.shape.get(axis)?);
        let fits = match scales {
            0 => zeros == 0,
            1 => zeros <= 1,
            many => {
                tensor.data.is_some() && along == Some(many as u64) && (zeros == many || zeros <= 1)
            }
        };
        if !fits {
            return Err(wrong(&format!(
                "has {scales} scales and {zeros} zero points for the tensor `{}`, which do not fit \
                 its shape",
                short(tensor.name)
            )));
        }
        let small = matches!(
            tensor.element,
            Element::U8 | Element::I8 | Element::I16 | Element::U16 | Element::I32 | Element::I4
        );
        if scales > 0 && !small {
            return Err(unsupported(&format!(
                "has scales for the tensor `{}`, whose type takes none",
                short(tensor.name)
            )));
        }
        Ok(scales > 0)
    }

    fn operator(
        &mut self,
        table: &Table<'a>,
        codes: Tables<'a>,
        tensors: &[Tensor<'a>],
    ) -> Result<Operator, Refusal> {
        let index = table.u32(0)? as usize;
        if index >= codes.len() {
            return Err(malformed(table.at(), &format!("has no operator code {index}")));
        }
        let op = name(&codes.get(index)?)?;
        let inputs = self.indices(table, 1)?;
        let inputs = inputs.into_iter().map(|index| match index {
            // Left out.
            -1 => Ok(None),
            index => one(index, tensors, table).map(Some),
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = all(self.indices(table, 2)?, tensors, table)?;
        let kind = table.i8(3)?;
        let options = table.table(4)?;
        if let Some(options) = &options {
            options.prove(WIDEST_OPTION)?;
        }
        let mut gather = None;
        match (kind, &options) {
            (RESHAPE_OPTIONS, Some(options)) => {
                let sizes = options.vector(0, 4)?.map_or(0, |sizes| sizes.len() / 4);
                self.count(sizes)?;
            }
            (SQUEEZE_OPTIONS, Some(options)) => {
                let axes = required(options, options.vector(0, 4)?, "dimensions to squeeze")?;
                self.count(axes.len() / 4)?;
            }
            (GATHER_OPTIONS, Some(options)) => gather = Some((options.i32(0)?, options.i32(1)?)),
            _ => {}
        }
        Ok(Operator { op, inputs, outputs, gather })
    }
}

/// What an operator code names.
fn name(code: &Table<'_>) -> Result<&'static str, Refusal> {
    let (narrow, wide) = (code.i8(0)?, code.i32(3)?);
    let number = if narrow < WIDER { i32::from(narrow) } else { wide };
    // Those who read one field would see another operator than those who read
    // both.
    if narrow < WIDER && wide != 0 && wide != number {
        return Err(malformed(code.at(), "has an operator code with two numbers"));
    }
    let known = usize::try_from(number).ok().and_then(|number| NAMES.get(number));
    match known {
        Some(&"CUSTOM") => {
            let custom = code.text(1)?.unwrap_or_default();
            Err(unsupported(&format!(
                "has the operator `{}` of its own: only TensorFlow Lite's are taken",
                short(custom)
            )))
        }
        Some(name) => Ok(name),
        None => Err(malformed(code.at(), &format!("has the unknown operator {number}"))),
    }
}

fn one(index: i32, tensors: &[Tensor<'_>], table: &Table<'_>) -> Result<usize, Refusal> {
    let found = usize::try_from(index).ok().filter(|&index| index < tensors.len());
    found.ok_or_else(|| malformed(table.at(), &format!("has no tensor {index}")))
}

fn all(
    indices: Vec<i32>,
    tensors: &[Tensor<'_>],
    table: &Table<'_>,
) -> Result<Vec<usize>, Refusal> {
    indices.into_iter().map(|index| one(index, tensors, table)).collect()
}

/// Proves that each value is made once, before it is used, and known by a name
/// that no other has: engines tell values apart by their names.
fn prove_order(model: &Model<'_>) -> Result<(), Refusal> {
    let mut made = Made { model, made: vec![false; model.tensors.len()], names: HashSet::new() };
    for &index in &model.inputs {
        made.value(index, "an input")?;
    }
    for operator in &model.operators {
        for &index in operator.inputs.iter().flatten() {
            if made.made[index] {
                continue;
            }
            let tensor = &model.tensors[index];
            if tensor.data.is_none() && tensor.bytes() != Some(0) {
                return Err(wrong(&format!("uses {} before it is made", made.title(index))));
            }
            made.add(index)?;
        }
        for &index in &operator.outputs {
            made.value(index, "made by an operator")?;
        }
    }
    let by_operators: HashSet<_> = model.operators.iter().flat_map(|op| &op.outputs).collect();
    let mut outputs = HashSet::new();
    let odd = |index: &&usize| !by_operators.contains(index) || !outputs.insert(**index);
    match model.outputs.iter().find(odd) {
        Some(&index) => Err(wrong(&format!(
            "has {} as an output, which no operator makes, or twice",
            made.title(index)
        ))),
        None => Ok(()),
    }
}

struct Made<'m, 'a> {
    model: &'m Model<'a>,
    made: Vec<bool>,
    names: HashSet<&'a str>,
}

impl Made<'_, '_> {
    /// A value that is no constant.
    fn value(&mut self, index: usize, what: &str) -> Result<(), Refusal> {
        if self.model.tensors[index].data.is_some() {
            return Err(wrong(&format!("has data for {}, which is {what}", self.title(index))));
        }
        self.add(index)
    }

    fn add(&mut self, index: usize) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.made[index], true) {
            return Err(wrong(&format!("makes {} twice", self.title(index))));
        }
        if !self.names.insert(self.model.tensors[index].name) {
            return Err(wrong(&format!("has another of the name of {}", self.title(index))));
        }
        Ok(())
    }

    fn title(&self, index: usize) -> String {
        format!("the tensor `{}`", short(self.model.tensors[index].name))
    }
}
