//! Nodes that are put before one that trusts its inputs. For inputs that have
//! elements they change nothing; where shapes are fixed OpenVINO folds them away.

use crate::nn::onnx::write::int;
use crate::nn::tensorflow::write::{I64, attribute, constant, node};

/// A value with the elements of this one, for the input of a node of that name:
/// without any there is an error, since it is given a shape whose dimensions are
/// 1 at least.
pub(super) fn filled(of: &str, at: usize, input: &str) -> (String, Vec<u8>) {
    let name = |what: &str| format!("proplet/{of}/{at}/{what}");
    let [shape, one, least, made] = ["shape", "one", "least", "filled"].map(name);
    let of_64_bits = |key: &str| attribute(key, int(6, I64));
    let nodes = [
        node(&shape, "Shape", &[input], &[of_64_bits("out_type")]),
        constant(&one, I64, &[], int(10, 1)),
        node(&least, "Maximum", &[&shape, &one], &[of_64_bits("T")]),
        node(&made, "Reshape", &[input, &least], &[of_64_bits("Tshape")]),
    ];
    (made, nodes.concat())
}
