//! Not tests: what the check of models takes, and which it refuses, by hand.
//! `cargo test --release --features openvino --lib -- --ignored --nocapture figures_of_the_check`

use std::path::Path;

use super::*;
use crate::nn::backends::openvino::encodings::prove;
use crate::nn::tensorflow::write as tensorflow;
use crate::nn::tflite::write as tflite;

const RUNS: usize = 21;

/// Layers of so many rows and columns of f32, which come to 20 MB.
const LAYERS: usize = 64;
const SIDE: i32 = 280;

fn median(check: &dyn Fn()) -> f64 {
    let mut times = [Duration::ZERO; RUNS];
    for time in &mut times {
        let begun = Instant::now();
        check();
        *time = begun.elapsed();
    }
    times.sort_unstable();
    times[RUNS / 2].as_secs_f64() * 1e3
}

/// Prints the row of a model.
fn row(name: &str, encoding: GraphEncoding, parts: &[&[u8]]) {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let answer = match prove(encoding, parts, Bounds::default()) {
        Ok(proven) => {
            format!("taken, {:+} bytes", proven.model.len() as i64 - parts[0].len() as i64)
        }
        Err(refusal) => refusal.text,
    };
    let ms = median(&|| drop(prove(encoding, parts, Bounds::default())));
    println!("| {name} | {:.1} MB | {ms:.3} | {answer} |", bytes as f64 / 1e6);
}

/// A chain of products in TensorFlow Lite's form.
fn large_tflite() -> Vec<u8> {
    let name = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let mut values = vec![tflite::value("x", &[1, SIDE])];
    let mut steps = Vec::new();
    for at in 0..LAYERS {
        let weights = vec![0.5; (SIDE * SIDE) as usize];
        values.push(tflite::floats(name(format!("w{at}")), &[SIDE, SIDE], &weights));
        values.push(tflite::value(name(format!("y{at}")), &[1, SIDE]));
        let from = 2 * at as i32;
        let product = tflite::step(9, &[from, from + 1], &[from + 2]);
        steps.push(tflite::Step { options: Some((8, vec![None])), ..product });
    }
    tflite::model(&values, &steps, &[0], &[2 * LAYERS as i32])
}

/// The same as a frozen graph.
fn large_graph() -> Vec<u8> {
    use crate::nn::onnx::write::{bytes, int};
    let side = i64::from(SIDE);
    let ty = tensorflow::attribute("T", int(6, tensorflow::F32));
    let mut nodes = vec![tensorflow::placeholder("y", &[1, side])];
    let mut last = "y".to_owned();
    for at in 0..LAYERS {
        let (weights, made) = (format!("w{at}"), format!("y{at}"));
        let numbers = bytes(4, floats(&vec![0.5; (SIDE * SIDE) as usize]));
        nodes.push(tensorflow::constant(&weights, tensorflow::F32, &[side, side], numbers));
        let inputs = [last.as_str(), weights.as_str()];
        nodes.push(tensorflow::node(&made, "MatMul", &inputs, std::slice::from_ref(&ty)));
        last = made;
    }
    nodes.concat()
}

/// `NN_MODELS` names a folder with more models, in whose folders they are looked for.
#[test]
#[ignore = "figures, by hand"]
fn figures_of_the_check_of_real_models() {
    let fixtures = assets().join("fixtures");
    let file = |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    println!("| model | size | ms | answer |\n|---|---|---|---|");
    for folder in ["mobilenet", "real/efficientnet"] {
        let [xml, weights] =
            ["model.xml", "model.bin"].map(|part| file(&fixtures.join(folder).join(part)));
        row(&format!("{folder}/model.xml"), GraphEncoding::Openvino, &[&xml, &weights]);
    }
    for name in ["real/efficientnet/model.onnx", "real/line/model.onnx"] {
        row(name, GraphEncoding::Onnx, &[&file(&fixtures.join(name))]);
    }
    let faces = "real/faces/model.tflite";
    row(faces, GraphEncoding::Tensorflowlite, &[&file(&fixtures.join(faces))]);
    row("64 products", GraphEncoding::Tensorflowlite, &[&large_tflite()]);
    row("64 products", GraphEncoding::Tensorflow, &[&large_graph()]);

    let mut folders: Vec<_> =
        std::env::var_os("NN_MODELS").map(PathBuf::from).into_iter().collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.display().to_string();
            match path.extension().and_then(|ending| ending.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some("onnx") => row(&name, GraphEncoding::Onnx, &[&file(&path)]),
                Some("tflite") => row(&name, GraphEncoding::Tensorflowlite, &[&file(&path)]),
                Some("pb") => row(&name, GraphEncoding::Tensorflow, &[&file(&path)]),
                Some("xml") => {
                    let weights = file(&path.with_extension("bin"));
                    row(&name, GraphEncoding::Openvino, &[&file(&path), &weights]);
                }
                _ => {}
            }
        }
    }
}
