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
    let [shape, zero, one, least, some] = ["shape", "zero", "one", "least", "some"].map(name);
    let keep = attribute("keep_dims", int(5, 1));
    let before = [
        shape_of(&shape, input),
        constant(&zero, I32, &[1], int(7, 0)),
        constant(&one, I64, &[1], int(10, 1)),
        node(&least, "Min", &[&shape, &zero], &[keep]),
        node(&some, "Minimum", &[&least, &one], &[]),
    ];
    let (made, nodes) = only_if(name, &some, input);
    (made, [before.concat(), nodes].concat())
}

/// The first factor of a product, or an error if the dimension along which the two
/// are multiplied, the last or the one before it, is another one in the second.
pub(super) fn multiplied(
    of: &str,
    factors: [&str; 2],
    before_last: [bool; 2],
) -> (String, Vec<u8>) {
    let name = |what: &str| format!("proplet/{of}/factors/{what}");
    let [zero, equal, some] = ["zero", "equal", "some"].map(name);
    let mut before = vec![constant(&zero, I32, &[1], int(7, 0))];
    let mut sizes = Vec::new();
    for (at, (factor, before_last)) in factors.iter().zip(before_last).enumerate() {
        let [shape, place, size] =
            ["shape", "place", "size"].map(|what| name(&format!("{what}{at}")));
        before.push(shape_of(&shape, factor));
        before.push(constant(&place, I32, &[1], int(7, if before_last { -2 } else { -1 })));
        before.push(node(&size, "GatherV2", &[&shape, &place, &zero], &[]));
        sizes.push(size);
    }
    before.push(node(&equal, "Equal", &[&sizes[0], &sizes[1]], &[]));
    before.push(node(&some, "Cast", &[&equal], &[attribute("DstT", int(6, I64))]));
    let (made, nodes) = only_if(name, &some, factors[0]);
    (made, [before.concat(), nodes].concat())
}

fn shape_of(name: &str, input: &str) -> Vec<u8> {
    node(name, "Shape", &[input], &[attribute("out_type", int(6, I64))])
}

/// A value with the elements of an input, or an error if the one number of `some`
/// is 0 and not 1.
fn only_if(name: impl Fn(&str) -> String, some: &str, input: &str) -> (String, Vec<u8>) {
    let [both, two, count, square] = ["both", "two", "count", "square"].map(&name);
    let [number, several, all] = ["number", "several", "all"].map(&name);
    let [least, truth, made] = ["smallest", "truth", "filled"].map(&name);
    let nodes = [
        constant(&both, I32, &[2], [int(7, 0), int(7, 1)].concat()),
        constant(&square, I64, &[2], [int(10, 1), int(10, 1)].concat()),
        constant(&two, I64, &[1], int(10, 2)),
        constant(&number, I64, &[], int(10, 1)),
        node(&count, "Sub", &[&two, some], &[]),
        // What fails by the shape that it is to have fails once: this does by its input.
        node(&several, "Fill", &[&count, &number], &[]),
        node(&all, "Reshape", &[&several, &square], &[]),
        node(&least, "Min", &[&all, &both], &[attribute("keep_dims", int(5, 0))]),
        node(&truth, "Cast", &[&least], &[attribute("DstT", int(6, BOOL))]),
        node(&made, "SelectV2", &[&truth, input, input], &[]),
    ];
    (made, nodes.concat())
}
