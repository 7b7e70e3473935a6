//! What is known of the values that a node makes.

use crate::nn::backends::openvino::operators::{Fact, Window, made};
use crate::nn::onnx::{Element, Node, Setting, Tensor};

/// The most numbers of a constant that are looked at.
const MOST: usize = 4096;

/// A tensor of the file.
pub(super) fn constant(tensor: &Tensor<'_>) -> Fact {
    let integers = matches!(tensor.element, Element::I32 | Element::I64);
    let values = integers.then(|| tensor.ints(MOST)).flatten();
    Fact::constant(Some(tensor.shape.clone()), values)
}

/// The axis of a `Gather`, as OpenVINO has it: a constant input.
pub(super) fn axis(node: &Node<'_>) -> Fact {
    let values = match node.setting("axis") {
        None => Some(vec![0]),
        Some(Setting::Int(axis)) => Some(vec![*axis]),
        Some(_) => None,
    };
    Fact::constant(Some(Vec::new()), values)
}

/// An attribute as the list's conditions read it.
pub(super) fn text(node: &Node<'_>, key: &str) -> Option<String> {
    node.setting(key).map(|setting| match setting {
        Setting::Int(number) => number.to_string(),
        Setting::Ints(numbers) => {
            let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
            numbers.join(",")
        }
        // What is no number holds for none.
        _ => "no number".to_owned(),
    })
}

/// What is known of all outputs beside shapes and values: whether these have
/// elements, and are the same in each inference.
pub(super) fn extent(node: &Node<'_>, becomes: &[&str], inputs: &[Fact]) -> Fact {
    // One that is left out says nothing.
    let given: Vec<Fact> = node
        .inputs
        .iter()
        .zip(inputs)
        .filter(|(name, _)| !name.is_empty())
        .map(|(_, fact)| fact.clone())
        .collect();
    let open = |operator: &str, inputs: &[Fact]| made(operator, inputs, Window::Open);
    let first = |count: usize| given[..count.min(given.len())].to_vec();
    match node.op {
        "Conv" => made("Convolution", &first(2), window(node, inputs.get(1))),
        "MaxPool" | "AveragePool" | "Dropout" => open("MaxPool", &first(1)),
        // Both are proven to have elements, or kept in range.
        "Gather" => open("Concat", &given),
        "Pad" => open("Pad", &first(2)),
        // In equal parts; else one of them may be empty.
        "Split" if given.len() > 1 => Fact::default(),
        "Split" if node.setting("split").or(node.setting("num_outputs")).is_some() => {
            Fact::default()
        }
        "Split" => open("Split", &given),
        // By the data and the weights.
        "LSTM" | "GRU" | "RNN" => open("Concat", &first(3)),
        _ => match becomes {
            [one] => open(one, &given),
            all if all.iter().all(|one| open(one, &given[..given.len().min(1)]).is_filled()) => {
                open("Concat", &given)
            }
            _ => Fact::default(),
        },
    }
}

/// Whether a convolution's window fits what it moves over, whatever its size is.
fn window(node: &Node<'_>, weights: Option<&Fact>) -> Window {
    let dims = weights.and_then(|fact| fact.shape.as_deref()).and_then(|dims| dims.get(2..));
    let Some(kernel) = dims else { return Window::Open };
    // Others than plain padding go by names.
    if node.setting("auto_pad").is_some() {
        return Window::Open;
    }
    let numbers = |key: &str, or: u64| match node.setting(key) {
        None => Some(vec![or; 2 * kernel.len()]),
        Some(Setting::Ints(numbers)) => {
            numbers.iter().map(|&number| u64::try_from(number).ok()).collect()
        }
        Some(_) => None,
    };
    let (Some(pads), Some(dilations)) = (numbers("pads", 0), numbers("dilations", 1)) else {
        return Window::Open;
    };
    if pads.len() != 2 * kernel.len() {
        return Window::Open;
    }
    let (before, after) = pads.split_at(kernel.len());
    let added: Vec<u64> =
        before.iter().zip(after).map(|(before, after)| before.saturating_add(*after)).collect();
    Window::of(kernel, &added, &dilations)
}

/// What is known of the first output: numbers that are worked out of constants,
/// and what is known of all of them.
pub(super) fn folded(node: &Node<'_>, inputs: &[Fact], extent: Fact) -> Fact {
    let first = || inputs.first().cloned().unwrap_or_default();
    let (shape, values) = match node.op {
        "Constant" => match node.attributes.first().map(|only| (only.name, &only.value)) {
            Some(("value", Setting::Tensor(tensor))) => return constant(tensor),
            Some(("value_int", Setting::Int(value))) => {
                return Fact::constant(Some(Vec::new()), Some(vec![*value]));
            }
            Some(("value_ints", Setting::Ints(values))) => {
                return Fact::constant(Some(vec![values.len() as u64]), Some(values.clone()));
            }
            _ => return Fact::default(),
        },
        "Identity" => return first(),
        "Shape" => {
            let whole = node.setting("start").is_none() && node.setting("end").is_none();
            let dims = first().shape.filter(|_| whole);
            let dims: Option<Vec<i64>> =
                dims.and_then(|dims| dims.iter().map(|&dim| i64::try_from(dim).ok()).collect());
            return Fact::constant(dims.as_ref().map(|dims| vec![dims.len() as u64]), dims);
        }
        "Cast" => {
            let Fact { shape, values, .. } = first();
            // From one kind of integers to another that holds these too.
            let fits = |value: &i64| i32::try_from(*value).is_ok();
            let kept = values.filter(|values| match node.setting("to") {
                Some(Setting::Int(7)) => true,
                Some(Setting::Int(6)) => values.iter().all(fits),
                _ => false,
            });
            (shape, kept)
        }
        "Concat" => {
            let values = joined(inputs);
            (values.as_ref().map(|values| vec![values.len() as u64]), values.map(Into::into))
        }
        "Unsqueeze" => {
            let Fact { shape, values, .. } = first();
            // A number becomes a list of one, and of other shapes nothing is said.
            let one = shape.is_some_and(|shape| shape.is_empty());
            (one.then(|| vec![1]), values)
        }
        _ => (None, None),
    };
    extent.with(shape, values)
}

/// The numbers of lists, one after the other.
fn joined(inputs: &[Fact]) -> Option<Vec<i64>> {
    let mut all = Vec::new();
    for fact in inputs {
        let list = fact.shape.as_ref().is_some_and(|shape| shape.len() == 1);
        all.extend_from_slice(fact.values.as_deref().filter(|_| list)?);
        if all.len() > MOST {
            return None;
        }
    }
    Some(all)
}
