//! Nodes that are put before one that trusts its inputs. For inputs that have
//! elements they change nothing.

use crate::nn::onnx::write::int;
use crate::nn::tensorflow::write::{I32, I64, attribute, constant, node};

/// TensorFlow's number for truth values.
const BOOL: i64 = 10;

/// A value with the elements of this one, for the input of a node of that name:
/// without any there is an error. What has one element is given a shape of four,
/// and is the condition by which the value is selected from itself: a new shape of
/// the value's own is taken out by the library where one of its dimensions alone
/// is open.
pub(super) fn filled(of: &str, at: usize, input: &str) -> (String, Vec<u8>) {
    let name = |what: &str| format!("proplet/{of}/{at}/{what}");
    let [shape, zero, both, one, two] = ["shape", "zero", "both", "one", "two"].map(name);
    let [least, some, side, square] = ["least", "some", "side", "square"].map(name);
    let [all, number, truth, made] = ["all", "number", "truth", "filled"].map(name);
    let keep = |keep| attribute("keep_dims", int(5, keep));
    let nodes = [
        node(&shape, "Shape", &[input], &[attribute("out_type", int(6, I64))]),
        constant(&zero, I32, &[1], int(7, 0)),
        constant(&both, I32, &[2], [int(7, 0), int(7, 1)].concat()),
        constant(&one, I64, &[1], int(10, 1)),
        constant(&two, I64, &[1], int(10, 2)),
        node(&least, "Min", &[&shape, &zero], &[keep(1)]),
        node(&some, "Minimum", &[&least, &one], &[]),
        node(&side, "Sub", &[&two, &some], &[]),
        // In one dimension the library would work its size out of the elements.
        node(&square, "ConcatV2", &[&side, &side, &zero], &[attribute("N", int(3, 2))]),
        node(&all, "Reshape", &[&one, &square], &[]),
        node(&number, "Min", &[&all, &both], &[keep(0)]),
        node(&truth, "Cast", &[&number], &[attribute("DstT", int(6, BOOL))]),
        node(&made, "SelectV2", &[&truth, input, input], &[]),
    ];
    (made, nodes.concat())
}
