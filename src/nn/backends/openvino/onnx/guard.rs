//! Nodes that are put before one that trusts its inputs. For inputs that it can
//! take they change nothing.

use crate::nn::onnx::Node;
use crate::nn::onnx::write::{attribute, bytes, int, ints, node};

/// The first version of ONNX's operators in which a number may stand for a list
/// of them, and which has `Where`.
pub(super) const OPSET: i64 = 9;

/// ONNX's number for `i64`.
const I64: i64 = 7;

/// The same for truth values.
const BOOL: i64 = 9;

/// A value with the elements of an input: without any there is an error. What
/// has one element is given a shape of four, and is the condition by which the
/// input is selected from itself: a new shape of the input's own is taken out by
/// the library where one of its dimensions alone is open.
pub(super) fn filled(of: &Node<'_>, at: usize, input: &str) -> Option<(String, Vec<u8>)> {
    let name = names(of, at)?;
    let [shape, one, two, least] = ["shape", "one", "two", "least"].map(name);
    let [some, side, square, all] = ["some", "side", "square", "all"].map(name);
    let [number, truth, made] = ["number", "truth", "filled"].map(name);
    let nodes = [
        node("Shape", &[input], &[&shape], &[]),
        constant(&one, &[1], &[1]),
        constant(&two, &[1], &[2]),
        node("ReduceMin", &[&shape], &[&least], &[attribute("keepdims", 1)]),
        node("Min", &[&least, &one], &[&some], &[]),
        node("Sub", &[&two, &some], &[&side], &[]),
        // In one dimension the library would work its size out of the elements.
        node("Concat", &[&side, &side], &[&square], &[attribute("axis", 0)]),
        node("Reshape", &[&one, &square], &[&all], &[]),
        node("ReduceMin", &[&all], &[&number], &[attribute("keepdims", 0)]),
        node("Cast", &[&number], &[&truth], &[attribute("to", BOOL)]),
        node("Where", &[&truth, input, input], &[&made], &[]),
    ];
    Some((made, nodes.concat()))
}

/// A value with the numbers of an input, none less or more than these.
pub(super) fn within(
    of: &Node<'_>,
    at: usize,
    input: &str,
    least: i64,
    most: i64,
) -> Option<(String, Vec<u8>)> {
    let name = names(of, at)?;
    let [wide, low, high, above, made] = ["wide", "low", "high", "above", "within"].map(name);
    let nodes = [
        node("Cast", &[input], &[&wide], &[attribute("to", I64)]),
        constant(&low, &[], &[least]),
        constant(&high, &[], &[most]),
        node("Max", &[&wide, &low], &[&above], &[]),
        node("Min", &[&above, &high], &[&made], &[]),
    ];
    Some((made, nodes.concat()))
}

/// Names for one input of a node: its outputs have names that nothing else has.
fn names<'n>(of: &'n Node<'_>, at: usize) -> Option<impl Fn(&str) -> String + Copy + 'n> {
    let output = of.outputs.iter().find(|name| !name.is_empty())?;
    Some(move |what: &str| format!("proplet/{output}/{at}/{what}"))
}

/// A constant of `i64`.
pub(super) fn constant(name: &str, shape: &[i64], values: &[i64]) -> Vec<u8> {
    // The field of an initializer, in an attribute, where its number is the same.
    let tensor = ints("", shape, values);
    let value = bytes(5, [bytes(1, "value"), tensor, int(20, 4)].concat());
    node("Constant", &[], &[name], &[value])
}
