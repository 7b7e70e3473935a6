//! With the real library: it is found as a worker finds it, beside the build.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding, TensorType};

use super::operators::Operators;
use super::xml::Bounds;
use super::*;
use crate::cancel::{Cancel, Doing, Reason};
use crate::nn::assets::assets;
use crate::nn::backends::{Backend as _, BackendName};
use crate::nn::context::NnCtx;
use crate::nn::graph::SharedGraph;
use crate::nn::refusal::Halt;
use crate::nn::source::Source;
use crate::nn::tensors::Element;
use crate::nn::{Nn, NnConfig, NnLimits, NnReport};

#[cfg(target_os = "linux")]
mod exported;
mod figures;
mod kinds;

/// wasi-nn with the library that the fixtures' setup puts under the build
/// folder.
pub(super) fn nn() -> Nn {
    nn_with(Operators::Checked)
}

/// The same, for models with these operators.
pub(super) fn nn_with(operators: Operators) -> Nn {
    configured(OpenVinoConfig { operators, ..OpenVinoConfig::default() })
}

/// How it is set up by default, with the library of the fixtures.
pub(super) fn config() -> OpenVinoConfig {
    assets();
    let search = SearchEnv::from_lookup(std::env::current_exe().ok(), |_| None);
    OpenVinoConfig { search, ..OpenVinoConfig::default() }
}

fn configured(openvino: OpenVinoConfig) -> Nn {
    let openvino = OpenVinoConfig { search: config().search, ..openvino };
    let config = NnConfig {
        openvino,
        backend: Some(BackendName::OpenVino),
        cache_bytes: 1 << 30,
        model_bytes: 1 << 28,
        limits: NnLimits::default(),
        ..NnConfig::default()
    };
    let nn = Nn::new(config);
    if let Err(error) = &nn.libraries()[0].1 {
        panic!("OpenVINO is not installed: run fixtures/setup.py ({error})");
    }
    nn
}

pub(super) fn context(nn: &Nn) -> NnCtx {
    nn.context(&[], Arc::default()).expect("a context")
}

/// A layer of an IR; its output is `shape`, its inputs those of `from`.
pub(super) fn layer(
    id: usize,
    ty: &str,
    data: &str,
    inputs: &[&str],
    output: Option<&str>,
) -> String {
    let port = |port: usize, shape: &str| {
        let dims: String = shape
            .split(',')
            .filter(|dim| !dim.is_empty())
            .map(|dim| format!("<dim>{dim}</dim>"))
            .collect();
        format!("<port id=\"{port}\" precision=\"FP32\">{dims}</port>")
    };
    let mut xml =
        format!("<layer id=\"{id}\" name=\"{ty}{id}\" type=\"{ty}\" version=\"opset1\">{data}");
    if !inputs.is_empty() {
        let ports: String = inputs.iter().enumerate().map(|(i, shape)| port(i, shape)).collect();
        let _ = write!(xml, "<input>{ports}</input>");
    }
    if let Some(shape) = output {
        let _ = write!(xml, "<output>{}</output>", port(inputs.len(), shape));
    }
    xml + "</layer>"
}

pub(super) fn net(layers: &[String], edges: &[(usize, usize, usize, usize)]) -> Vec<u8> {
    let edges: String = edges
        .iter()
        .map(|(from, port, to, slot)| {
            format!("<edge from-layer=\"{from}\" from-port=\"{port}\" to-layer=\"{to}\" to-port=\"{slot}\"/>")
        })
        .collect();
    let layers = layers.concat();
    format!("<?xml version=\"1.0\"?><net name=\"t\" version=\"11\"><layers>{layers}</layers><edges>{edges}</edges></net>")
        .into_bytes()
}

/// `x + [1, 2, 3, 4]` for `x` of the shape `shape,4`; `-1` leaves it open.
pub(super) fn add(shape: &str) -> (Vec<u8>, Vec<u8>) {
    let (open, shape) = (format!("{},4", shape.replace("-1", "?")), format!("{shape},4"));
    let input = format!("<data element_type=\"f32\" shape=\"{open}\"/>");
    let weights = "<data element_type=\"f32\" shape=\"4\" offset=\"0\" size=\"16\"/>";
    let xml = net(
        &[
            layer(0, "Parameter", &input, &[], Some(&shape)),
            layer(1, "Const", weights, &[], Some("4")),
            layer(2, "Add", "<data auto_broadcast=\"numpy\"/>", &[&shape, "4"], Some(&shape)),
            layer(3, "Result", "", &[&shape], None),
        ],
        &[(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0)],
    );
    (xml, floats(&[1.0, 2.0, 3.0, 4.0]))
}

/// Seconds of matrix products, on any machine: `x·W·W·…` for a 2048² `W`.
fn slow(products: usize) -> (Vec<u8>, Vec<u8>) {
    let side = "2048,2048";
    let data = format!("<data element_type=\"f32\" shape=\"{side}\"");
    let mut layers = vec![
        layer(0, "Parameter", &format!("{data}/>"), &[], Some(side)),
        layer(1, "Const", &format!("{data} offset=\"0\" size=\"16777216\"/>"), &[], Some(side)),
    ];
    let mut edges = Vec::new();
    for id in 2..products + 2 {
        let product = "<data transpose_a=\"false\" transpose_b=\"false\"/>";
        layers.push(layer(id, "MatMul", product, &[side, side], Some(side)));
        let (from, port) = if id == 2 { (0, 0) } else { (id - 1, 2) };
        edges.extend([(from, port, id, 0), (1, 0, id, 1)]);
    }
    layers.push(layer(products + 2, "Result", "", &[side], None));
    edges.push((products + 1, 2, products + 2, 0));
    (net(&layers, &edges), vec![0; 16 << 20])
}

pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn load(nn: &mut NnCtx, (xml, weights): &(Vec<u8>, Vec<u8>)) -> Result<u32, String> {
    nn.load(0, 0, &[xml, weights]).map_err(Halt::sentence)
}

fn infer(nn: &mut NnCtx, context: u32, shape: &[u32], input: &[f32]) -> Vec<u8> {
    nn.set_input(context, 0, 1, shape, &floats(input)).expect("set");
    nn.compute(context).expect("computed");
    let mut output = vec![0; 4 * input.len()];
    let bytes = nn.get_output(context, 0, &mut output).expect("an output");
    output.truncate(bytes as usize);
    output
}

#[test]
fn an_inference_is_right_and_its_request_is_used_again() {
    let nn = nn();
    let model = add("1");
    let mut report = NnReport::default();
    for round in 0..3u8 {
        let mut task = context(&nn);
        let graph = load(&mut task, &model).expect("a graph");
        let context = task.init_execution_context(graph).expect("a context");
        // Nothing of the task before can be seen.
        assert!(task.get_output(context, 0, &mut [0; 16]).is_err());
        assert!(task.compute(context).is_err());
        let base = f32::from(round);
        let output = infer(&mut task, context, &[1, 4], &[base; 4]);
        assert_eq!(output, floats(&[base + 1.0, base + 2.0, base + 3.0, base + 4.0]));
        report = task.report();
    }
    assert_eq!((report.graphs_reused, report.graphs_loaded, report.inferences), (1, 0, 1));
    assert_eq!(report.diagnostics.len(), 2);
    let stats = nn.stats();
    assert_eq!((stats.graphs_compiled, stats.cache_hits, stats.inferences), (1, 2, 3));
}

#[test]
fn an_open_dimension_takes_one_shape_after_the_other() {
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &add("-1")).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    for rows in [3u32, 1, 5] {
        let output = infer(&mut task, context, &[rows, 4], &vec![1.0; 4 * rows as usize]);
        assert_eq!(output, floats(&[2.0, 3.0, 4.0, 5.0]).repeat(rows as usize));
    }
    let wrong = task.set_input(context, 0, 1, &[4], &floats(&[0.0; 4]));
    assert!(wrong.is_err());
    let said = task.report().diagnostics.pop().expect("a sentence");
    assert!(said.ends_with("[4], but the model's input is f32 [?,4]"), "{said}");
}

#[test]
fn targets_are_the_devices_of_the_setting() {
    for (gpu, input) in
        [("AUTO", 1.0), ("AUTO:GPU,CPU", 2.0), ("MULTI:CPU", 3.0), ("HETERO:CPU", 4.0)]
    {
        let devices = Devices { gpu: Some(gpu.to_owned()), ..Devices::default() };
        let nn = configured(OpenVinoConfig { devices, ..OpenVinoConfig::default() });
        let mut task = context(&nn);
        let (xml, weights) = add("1");
        let graph = task.load(0, 1, &[&xml, &weights]).expect(gpu);
        let context = task.init_execution_context(graph).expect("a context");
        let output = infer(&mut task, context, &[1, 4], &[input; 4]);
        assert_eq!(output, floats(&[1.0, 2.0, 3.0, 4.0].map(|n| n + input)), "{gpu}");
    }
    // This machine has none.
    let nn = nn();
    let mut task = context(&nn);
    let (xml, weights) = add("1");
    let refused = task.load(0, 1, &[&xml, &weights]).map_err(Halt::sentence);
    let text = refused.expect_err("no GPU");
    assert!(text.starts_with("there is no GPU: OpenVINO has CPU"), "{text}");
}

#[test]
fn what_openvino_refuses_is_told_in_full() {
    let nn = nn_with(Operators::All);
    let mut task = context(&nn);
    let (xml, weights) = add("1");
    let unknown = String::from_utf8(xml).expect("text").replace("\"Add\"", "\"Bad\"");
    let model = (unknown.into_bytes(), weights);
    // Beside other tests the text can't always be told from theirs.
    let told = |error: &String| error.contains("Bad");
    let error = std::iter::repeat_with(|| load(&mut task, &model).expect_err("no such operator"))
        .take(300)
        .find(told)
        .expect("the text, once");
    assert!(error.starts_with("OpenVINO refuses the model: "), "{error}");
    assert!(task.load(0, 2, &[b"<net></net>", b""]).is_err());
    let said = task.report().diagnostics;
    let last = said.last().expect("a sentence");
    assert!(last.starts_with("`load`: this worker has no device for a TPU"), "{last}");
    assert!(!said[0].contains('\n'), "{said:?}");
}

#[test]
fn thousands_of_models_leave_memory_flat() {
    // ARCHITECTURE.md, case 32. In a process of its own, where nothing else moves.
    let own = thread::current().name().expect("a test has a name").to_owned();
    let alone = own.replace("thousands_of_models_leave_memory_flat", "models_come_and_go");
    let this = std::env::current_exe().expect("the test program");
    let output = Command::new(this)
        .args(["--exact", &alone, "--ignored"])
        .output()
        .expect("the test program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(" 1 passed"), "{said}");
}

#[test]
#[ignore = "`thousands_of_models_leave_memory_flat` runs it, alone in its process"]
fn models_come_and_go() {
    // The stock bindings would keep each message and each port.
    let nn = nn_with(Operators::All);
    let mut task = context(&nn);
    let (xml, weights) = add("1");
    let unknown = String::from_utf8(xml).expect("text").replace("\"Add\"", "\"Bad\"");
    let model = (unknown.into_bytes(), weights);
    let mut refused = |count| {
        for _ in 0..count {
            assert!(load(&mut task, &model).is_err());
        }
        resident()
    };
    let before = refused(200);
    let after = refused(2000);
    assert!(after < before + (8 << 20), "from {before} to {after} bytes, refused");

    // Twenty fit; the least recently used go.
    let small = Nn::new(NnConfig { cache_bytes: 20 << 20, ..nn.shared.config.clone() });
    let (xml, mut weights) = add("1");
    let mut taken = |count| {
        for _ in 0..count {
            weights.resize(weights.len() + 1, 0);
            let mut task = context(&small);
            let graph = load(&mut task, &(xml.clone(), weights.clone())).expect("a graph");
            let context = task.init_execution_context(graph).expect("a context");
            infer(&mut task, context, &[1, 4], &[0.0; 4]);
        }
        resident()
    };
    let before = taken(60);
    let after = taken(120);
    assert!(after < before + (16 << 20), "from {before} to {after} bytes, taken");
    assert!(small.stats().cached_graphs < 20 && small.stats().evicted > 150);
}

#[test]
fn a_long_inference_is_cancelled() {
    let nn = nn();
    let cancel = Arc::new(Cancel::default());
    let mut task = nn.context(&[], cancel.clone()).expect("a context");
    // Some 17 GFLOP each: without the stop it takes half a minute and succeeds.
    let graph = load(&mut task, &slow(400)).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    let input = vec![0; 16 << 20];
    task.set_input(context, 0, 1, &[2048, 2048], &input).expect("set");
    let stop = thread::spawn(move || {
        while !matches!(cancel.doing(), Doing::Computing(_)) {
            thread::sleep(Duration::from_millis(1));
        }
        cancel.cancel(Reason::Stopped);
        Instant::now()
    });
    let computed = task.compute(context);
    let ended = Instant::now();
    assert_eq!(computed, Err(Halt::Cancelled(Reason::Stopped)));
    let stopped = stop.join().expect("no panic");
    // The operator that runs ends first: some 0.1 s here.
    println!("cancelled after {:?}", ended.saturating_duration_since(stopped));
}

#[test]
fn many_threads_compile_and_infer_at_once() {
    let nn = nn();
    thread::scope(|scope| {
        for round in 0..8 {
            let nn = &nn;
            scope.spawn(move || {
                for rows in 1..4 {
                    let mut task = context(nn);
                    let graph = load(&mut task, &add(&rows.to_string())).expect("a graph");
                    let context = task.init_execution_context(graph).expect("a context");
                    let base = vec![round as f32; 4 * rows];
                    let output = infer(&mut task, context, &[rows as u32, 4], &base);
                    let row: Vec<f32> = (1..5).map(|n| (round + n) as f32).collect();
                    assert_eq!(output, floats(&row).repeat(rows));
                }
            });
        }
    });
    assert_eq!(nn.stats().graphs_compiled, 3);
}

/// Type and shape of a graph's first input, open dimensions as one.
fn shape_of(graph: &SharedGraph) -> (u8, Vec<u32>) {
    let input = &graph.inputs[0];
    let ty = if input.element == Element::Nn(TensorType::I32) { 4 } else { 1 };
    let dims = input.shape.iter().flatten();
    (ty, dims.map(|dim| u32::try_from(dim.min.max(1)).expect("a small one")).collect())
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Not a test: what things cost here, and what a graph keeps in memory.
/// `NN_MODEL` names a graph directory with one input, f32 or i32.
#[test]
#[ignore = "a measurement: cargo test --release --features openvino -- --ignored --nocapture costs"]
fn costs() {
    let begun = Instant::now();
    let nn = nn();
    println!("library and core: {:?}", begun.elapsed());
    let show = |what: &str, times: u32, run: &mut dyn FnMut()| {
        let mut all: Vec<_> = (0..times)
            .map(|_| {
                let begun = Instant::now();
                run();
                begun.elapsed()
            })
            .collect();
        all.sort();
        println!("{what}: median {:?}, least {:?}", all[all.len() / 2], all[0]);
    };
    show("context of a task", 1000, &mut || drop(context(&nn)));
    let small = resident();
    let keep: Vec<_> = (1..=64)
        .map(|rows| {
            let mut task = context(&nn);
            let begun = Instant::now();
            let graph = load(&mut task, &add(&rows.to_string())).expect("a graph");
            if rows < 4 {
                println!("compile of a tiny model: {:?}", begun.elapsed());
            }
            task.init_execution_context(graph).expect("a context");
            task
        })
        .collect();
    println!("bytes of a tiny model with a request: {}", (resident() - small) / 64);
    drop(keep);

    let Some(dir) = std::env::var_os("NN_MODEL").map(PathBuf::from) else { return };
    let read = |file: &str| std::fs::read(dir.join(file)).expect("a file");
    let (xml, mut weights) = (read("model.xml"), read("model.bin"));
    let mut graphs: Vec<Arc<SharedGraph>> = Vec::new();
    for _ in 0..6 {
        // One more byte, so that it is another model.
        weights.push(0);
        let before = resident();
        let begun = Instant::now();
        let source = Source::new(GraphEncoding::Openvino, ExecutionTarget::Cpu, &[&xml, &weights]);
        let copied = resident();
        drop(source);
        let mut task = context(&nn);
        let graph = task.load(0, 0, &[&xml, &weights]).expect("a graph");
        let compiled = resident();
        let took = begun.elapsed();
        let context = task.init_execution_context(graph).expect("a context");
        let made = resident();
        let (ty, shape) = shape_of(&task.shared_graph(graph));
        let input = vec![0; 4 * shape.iter().product::<u32>() as usize];
        task.set_input(context, 0, ty, &shape, &input).expect("set");
        task.compute(context).expect("computed");
        println!(
            "model of {} bytes: compiled in {took:?}; resident: source {} compiled {} request {} inference {}",
            xml.len() + weights.len(),
            copied - before,
            compiled.saturating_sub(before),
            made.saturating_sub(compiled),
            resident().saturating_sub(made)
        );
        graphs.push(task.shared_graph(graph));
    }
    show("load by bytes, cached", 100, &mut || {
        context(&nn).load(0, 0, &[&xml, &weights]).map(drop).expect("a graph");
    });
    let named = crate::task::GraphDir {
        encoding: "openvino".into(),
        dir: dir.canonicalize().expect("a path"),
        name: "m".into(),
    };
    let dirs = [named];
    show("context with -S nn-graph and load by name", 100, &mut || {
        let mut task = nn.context(&dirs, Arc::default()).expect("a context");
        task.load_by_name("m").map(drop).expect("a graph");
    });
    let mut task = nn.context(&dirs, Arc::default()).expect("a context");
    let graph = task.load_by_name("m").expect("a graph");
    let (ty, shape) = shape_of(&task.shared_graph(graph));
    let input = vec![0; 4 * shape.iter().product::<u32>() as usize];
    show("init_execution_context, warm", 100, &mut || {
        let mut task = nn.context(&dirs, Arc::default()).expect("a context");
        let graph = task.load_by_name("m").expect("a graph");
        task.init_execution_context(graph).map(drop).expect("a context");
    });
    let context = task.init_execution_context(graph).expect("a context");
    show("set_input", 100, &mut || {
        task.set_input(context, 0, ty, &shape, &input).expect("set");
    });
    show("compute", 100, &mut || task.compute(context).expect("computed"));
    let mut output = vec![0; 1 << 20];
    show("get_output", 100, &mut || {
        task.get_output(context, 0, &mut output).map(drop).expect("an output");
    });
}
