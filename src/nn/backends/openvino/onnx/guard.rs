//! Nodes that are put before one that trusts its inputs. For inputs that it can
//! take they change nothing.

use crate::nn::onnx::write::{attribute, bytes, int, ints, node};
use crate::nn::onnx::{Node, Setting};

/// The first version of ONNX's operators in which a number may stand for a list
/// of them, and which has `Where`.
pub(super) const OPSET: i64 = 9;

/// ONNX's number for `i64`.
const I64: i64 = 7;

/// The same for truth values.
const BOOL: i64 = 9;

/// A value with the elements of an input: without any there is an error. It
/// is selected from itself by a condition that can't be made: a new shape of the
/// input's own is taken out by the library where one of its dimensions alone is open.
pub(super) fn filled(of: &Node<'_>, at: usize, input: &str) -> Option<(String, Vec<u8>)> {
    let name = names(of, at)?;
    let [shape, one, least, some] = ["shape", "one", "least", "some"].map(&name);
    let before = [
        node("Shape", &[input], &[&shape], &[]),
        constant(&one, &[1], &[1]),
        node("ReduceMin", &[&shape], &[&least], &[attribute("keepdims", 1)]),
        node("Min", &[&least, &one], &[&some], &[]),
    ];
    let (made, nodes) = only_if(name, &some, input, &one);
    Some((made, [before.concat(), nodes].concat()))
}

/// The first factor of a product, or an error if the dimension along which the two
/// are multiplied is another one in the second.
pub(super) fn multiplied(
    of: &Node<'_>,
    factors: [&str; 2],
    opset: i64,
) -> Option<(String, Vec<u8>)> {
    let turned = |key: &str| match of.setting(key) {
        None => Some(false),
        Some(Setting::Int(turned)) => Some(*turned != 0),
        Some(_) => None,
    };
    let before_last = match of.op {
        "MatMul" | "MatMulInteger" => [false, true],
        "Gemm" => [turned("transA")?, !turned("transB")?],
        _ => return None,
    };
    // From this version on the places of a slice are inputs.
    if opset < 10 {
        return None;
    }
    let name = names(of, of.inputs.len())?;
    let [zero, one, last, from, to] = ["zero", "one", "last", "from", "to"].map(&name);
    let [equal, some] = ["equal", "some"].map(&name);
    let mut before = vec![
        constant(&zero, &[1], &[0]),
        constant(&one, &[1], &[1]),
        constant(&last, &[1], &[-1]),
        constant(&from, &[1], &[-2]),
        constant(&to, &[1], &[1 << 20]),
    ];
    let mut sizes = Vec::new();
    for (at, (factor, before_last)) in factors.iter().zip(before_last).enumerate() {
        let [shape, two, size] = ["shape", "two", "size"].map(|what| name(&format!("{what}{at}")));
        before.push(node("Shape", &[factor], &[&shape], &[]));
        // One dimension is both.
        if before_last {
            before.push(node("Slice", &[&shape, &from, &to], &[&two], &[]));
            before.push(node("Gather", &[&two, &zero], &[&size], &[]));
        } else {
            before.push(node("Gather", &[&shape, &last], &[&size], &[]));
        }
        sizes.push(size);
    }
    before.push(node("Equal", &[&sizes[0], &sizes[1]], &[&equal], &[]));
    before.push(node("Cast", &[&equal], &[&some], &[attribute("to", I64)]));
    let (made, nodes) = only_if(name, &some, factors[0], &one);
    Some((made, [before.concat(), nodes].concat()))
}

/// A value with the elements of an input, or an error if the one number of `some`
/// is 0 and not 1.
fn only_if(name: impl Fn(&str) -> String, some: &str, input: &str, one: &str) -> (String, Vec<u8>) {
    let [two, count, several, square, all] =
        ["two", "count", "several", "square", "all"].map(&name);
    let [number, truth, made] = ["number", "truth", "filled"].map(&name);
    let nodes = [
        constant(&two, &[1], &[2]),
        constant(&square, &[2], &[1, 1]),
        node("Sub", &[&two, some], &[&count], &[]),
        // What fails by the shape that it is to have fails once: this does by its input.
        node("Expand", &[one, &count], &[&several], &[]),
        node("Reshape", &[&several, &square], &[&all], &[]),
        node("ReduceMin", &[&all], &[&number], &[attribute("keepdims", 0)]),
        node("Cast", &[&number], &[&truth], &[attribute("to", BOOL)]),
        node("Where", &[&truth, input, input], &[&made], &[]),
    ];
    (made, nodes.concat())
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
