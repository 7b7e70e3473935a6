//! Small models of each encoding, and what is done to them.

use std::slice::from_ref;

use fastrand::Rng;

use super::super::tests::{add as ir, floats};
use super::super::{IR, TENSORFLOW, TFLITE};
use crate::nn::assets::assets;
use crate::nn::backends::{Encoding, ONNX};
use crate::nn::onnx::write as onnx;
use crate::nn::tensorflow::write as tf;
use crate::nn::tflite::write::{self as lite, Step, Value, ints, step, value};

/// Those that are damaged.
pub(super) const ENCODINGS: [&Encoding; 4] = [&IR, &ONNX, &TFLITE, &TENSORFLOW];

/// Numbers that are on a border of something.
const BORDERS: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
];

/// The models of one encoding, each a list of its files.
pub(super) struct Seeds {
    models: Vec<Vec<Vec<u8>>>,
    /// Files of other encodings.
    others: Vec<Vec<u8>>,
    text: bool,
}

impl Seeds {
    pub(super) fn of(encoding: &Encoding) -> Seeds {
        let others = ENCODINGS.iter().filter(|other| other.name != encoding.name);
        Seeds {
            models: models(encoding),
            others: others
                .flat_map(|other| models(other))
                .map(|mut files| files.remove(0))
                .collect(),
            text: encoding.name == IR.name,
        }
    }

    /// The models as they are.
    pub(super) fn models(&self) -> &[Vec<Vec<u8>>] {
        &self.models
    }

    /// One of them, with damage.
    pub(super) fn damaged(&self, rng: &mut Rng) -> Vec<Vec<u8>> {
        let mut files = self.models[rng.usize(..self.models.len())].clone();
        if rng.u8(..64) == 0 {
            files[0] = self.others[rng.usize(..self.others.len())].clone();
        }
        // Most with one damage, which leaves more to be looked at behind it.
        for _ in 0..1 + rng.usize(..6) / 4 {
            // A second file is weights, of which little is read.
            let last = if rng.u8(..8) == 0 { files.len() - 1 } else { 0 };
            damage(&mut files[last], self.text && last == 0, rng);
        }
        files
    }
}

/// Does one thing to a file.
fn damage(file: &mut Vec<u8>, text: bool, rng: &mut Rng) {
    if file.is_empty() {
        return;
    }
    let at = rng.usize(..file.len());
    let length = (1 + rng.usize(..16)).min(file.len() - at);
    match rng.u8(..if text { 16 } else { 12 }) {
        0 => file.truncate(at),
        1 | 2 | 8..12 => file[at] ^= 1 << rng.u8(..8),
        3 => file[at] = rng.u8(..),
        4 => {
            let border = BORDERS[rng.usize(..BORDERS.len())].to_le_bytes();
            let size = [1, 2, 4, 8][rng.usize(..4)].min(file.len() - at);
            file[at..at + size].copy_from_slice(&border[..size]);
        }
        5 => drop(file.drain(at..at + length)),
        6 => {
            let part = file[at..at + length].to_vec();
            let to = rng.usize(..=file.len());
            file.splice(to..to, part);
        }
        7 => {
            // One part in the place of another of the same length.
            let from = rng.usize(..file.len());
            let length = length.min(file.len() - from);
            let part = file[from..from + length].to_vec();
            file[at..at + length].copy_from_slice(&part);
        }
        _ => number(file, at, rng),
    }
}

/// Another number in the place of the next one in a text.
fn number(file: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let digit = |byte: &u8| byte.is_ascii_digit();
    let Some(begin) = file[at..].iter().position(digit).map(|behind| at + behind) else { return };
    let length = file[begin..].iter().take_while(|&byte| digit(byte)).count();
    let border = BORDERS[rng.usize(..BORDERS.len())];
    let sign = if rng.u8(..4) == 0 { "-" } else { "" };
    file.splice(begin..begin + length, format!("{sign}{border}").into_bytes());
}

fn models(encoding: &Encoding) -> Vec<Vec<Vec<u8>>> {
    match encoding.name {
        "openvino" => {
            let two = |(xml, weights)| vec![xml, weights];
            let file = |name| {
                std::fs::read(assets().join("fixtures/magika").join(name)).expect("a fixture")
            };
            let mut all = vec![two(ir("1")), two(ir("-1"))];
            all.push(vec![file("model.xml"), file("model.bin")]);
            all
        }
        "onnx" => onnx_models().into_iter().map(|file| vec![file]).collect(),
        "tensorflowlite" => tflite_models().into_iter().map(|file| vec![file]).collect(),
        _ => tensorflow_models().into_iter().map(|file| vec![file]).collect(),
    }
}

fn onnx_models() -> Vec<Vec<u8>> {
    use onnx::{attribute, input, list, model, node, output};
    let weights = onnx::floats("w", &[2, 1, 3, 3], &[0.5; 18]);
    let convolved = model(&[
        input("x", 1, &[1, 1, 8, 8]),
        weights,
        node("Conv", &["x", "w"], &["c"], &[list("strides", &[2, 2]), list("pads", &[1; 4])]),
        node("MaxPool", &["c"], &["p"], &[list("kernel_shape", &[2, 2])]),
        onnx::ints("s", &[2], &[1, -1]),
        node("Reshape", &["p", "s"], &["r"], &[]),
        node("Softmax", &["r"], &["y"], &[attribute("axis", -1)]),
        output("y", 1, &[]),
    ]);
    let selected = model(&[
        input("x", 1, &[4, 3]),
        onnx::ints("i", &[2], &[3, -1]),
        node("Gather", &["x", "i"], &["g"], &[attribute("axis", 0)]),
        onnx::ints("a", &[1], &[0]),
        onnx::ints("b", &[1], &[2]),
        node("Slice", &["g", "a", "b"], &["l"], &[]),
        node("Concat", &["l", "g"], &["k"], &[attribute("axis", 0)]),
        node("Transpose", &["k"], &["y"], &[list("perm", &[1, 0])]),
        output("y", 1, &[]),
    ]);
    vec![onnx::add(), convolved, selected]
}

fn tflite_models() -> Vec<Vec<u8>> {
    let options = |kind, fields: &[i32]| Some((kind, fields.iter().map(|&n| Some(n)).collect()));
    let open = |name| Value { signature: Some(vec![-1, 4]), ..value(name, &[1, 4]) };
    let add = lite::model(
        &[open("x"), lite::floats("b", &[4], &[1.0; 4]), open("s"), open("y")],
        &[Step { options: options(11, &[0]), ..step(0, &[0, 1], &[2]) }, step(19, &[2], &[3])],
        &[0],
        &[3],
    );
    // Conv2D, MaxPool2D, Reshape, FullyConnected, Softmax.
    let convolved = lite::model(
        &[
            value("x", &[1, 8, 8, 1]),
            lite::floats("w", &[2, 3, 3, 1], &[0.5; 18]),
            lite::floats("b", &[2], &[0.5; 2]),
            value("c", &[1, 8, 8, 2]),
            value("p", &[1, 4, 4, 2]),
            ints("s", &[2], &[1, 32]),
            value("r", &[1, 32]),
            lite::floats("f", &[3, 32], &[0.25; 96]),
            value("d", &[1, 3]),
            value("y", &[1, 3]),
        ],
        &[
            Step { options: options(1, &[0, 1, 1, 0, 1, 1]), ..step(3, &[0, 1, 2], &[3]) },
            Step { options: options(5, &[0, 2, 2, 2, 2]), ..step(17, &[3], &[4]) },
            step(22, &[4, 5], &[6]),
            Step { options: options(8, &[0]), ..step(9, &[6, 7, -1], &[8]) },
            Step { options: options(9, &[0x3f80_0000]), ..step(25, &[8], &[9]) },
        ],
        &[0],
        &[9],
    );
    let small = Value {
        ty: 9,
        data: Some(vec![3, 4, 5, 6]),
        scales: Some((vec![0.5; 4], vec![2; 4], 0)),
        ..value("q", &[4])
    };
    // Dequantize, Gather, StridedSlice, Pad, Concatenation.
    let selected = lite::model(
        &[
            small,
            value("b", &[4]),
            value("x", &[4]),
            ints("i", &[2], &[3, 0]),
            value("g", &[2]),
            ints("zero", &[1], &[0]),
            ints("two", &[1], &[2]),
            ints("one", &[1], &[1]),
            value("l", &[2]),
            ints("pads", &[1, 2], &[1, 1]),
            value("p", &[4]),
            value("y", &[8]),
        ],
        &[
            step(6, &[0], &[1]),
            Step { options: options(23, &[0, 0]), ..step(36, &[2, 3], &[4]) },
            Step { options: options(32, &[0, 0, 0, 0, 0]), ..step(45, &[4, 5, 6, 7], &[8]) },
            step(34, &[8, 9], &[10]),
            Step { options: options(10, &[0, 0]), ..step(2, &[1, 10], &[11]) },
        ],
        &[2],
        &[11],
    );
    vec![add, convolved, selected]
}

fn tensorflow_models() -> Vec<Vec<u8>> {
    use onnx::{bytes, int};
    use tf::{F32, I32, attribute, constant, node, placeholder};
    let typed = attribute("T", int(6, F32));
    let numbers = |field, all: &[i64]| {
        let all: Vec<_> = all.iter().map(|&number| int(field, number)).collect();
        bytes(1, all.concat())
    };
    let raw = |numbers: &[f32]| bytes(4, floats(numbers));
    let add = [
        placeholder("x", &[-1, 4]),
        constant("b", F32, &[4], raw(&[1.0, 2.0, 3.0, 4.0])),
        node("sum", "AddV2", &["x", "b"], from_ref(&typed)),
        node("y", "Relu", &["sum"], from_ref(&typed)),
    ];
    let ones = attribute("strides", numbers(3, &[1; 4]));
    let twos = |name| attribute(name, numbers(3, &[1, 2, 2, 1]));
    let same = attribute("padding", bytes(2, "SAME"));
    let format = attribute("data_format", bytes(2, "NHWC"));
    let dilations = attribute("dilations", numbers(3, &[1; 4]));
    let convolved = [
        placeholder("x", &[1, 8, 8, 1]),
        constant("w", F32, &[3, 3, 1, 2], raw(&[0.5; 18])),
        node("c", "Conv2D", &["x", "w"], &[ones, same.clone(), format.clone(), dilations]),
        node("p", "MaxPool", &["c"], &[twos("ksize"), twos("strides"), same, format]),
        constant("s", I32, &[2], bytes(7, [1, 32])),
        node("r", "Reshape", &["p", "s"], from_ref(&typed)),
        constant("m", F32, &[32, 3], raw(&[0.25; 96])),
        node("d", "MatMul", &["r", "m"], from_ref(&typed)),
        node("y", "Softmax", &["d"], from_ref(&typed)),
    ];
    let selected = [
        placeholder("x", &[4, 3]),
        constant("i", I32, &[2], bytes(7, [3, 0])),
        constant("a", I32, &[], int(7, 0)),
        node("g", "GatherV2", &["x", "i", "a"], &[attribute("batch_dims", int(3, 0))]),
        constant("z", I32, &[1], int(7, 0)),
        constant("o", I32, &[1], int(7, 1)),
        node("l", "StridedSlice", &["g", "z", "o", "o"], &[]),
        constant("q", I32, &[2, 2], int(7, 1)),
        node("p", "Pad", &["l", "q"], from_ref(&typed)),
        node("y", "ConcatV2", &["p", "p", "a"], &[attribute("N", int(3, 2))]),
    ];
    vec![add.concat(), convolved.concat(), selected.concat()]
}
