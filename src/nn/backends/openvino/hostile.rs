//! Models that ask for what is not theirs, and libraries that will not do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;

use wasmtime_wasi_nn::wit::TensorType;

use super::operators::Operators;
use super::tests::{context, floats, layer, load, net, nn, nn_with};
use super::*;
use crate::cancel::Cancel;
use crate::nn::backends::{Backend as _, Request};

/// `x` through an operator that keeps its shape; `""` is a scalar's.
fn through(operator: &str, data: &str, shape: &str) -> (Vec<u8>, Vec<u8>) {
    let input = format!("<data element_type=\"f32\" shape=\"{shape}\"/>");
    let layers = [
        layer(0, "Parameter", &input, &[], Some(shape)),
        layer(1, operator, data, &[shape], Some(shape)),
        layer(2, "Result", "", &[shape], None),
    ];
    (net(&layers, &[(0, 0, 1, 0), (1, 1, 2, 0)]), vec![])
}

/// ARCHITECTURE.md, case 67.
#[test]
fn a_scalar_is_taken_and_given() {
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &through("Negative", "", "")).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    task.set_input(context, 0, 1, &[], &floats(&[2.5])).expect("set");
    task.compute(context).expect("computed");
    let mut output = [0; 8];
    assert_eq!(task.get_output(context, 0, &mut output), Ok(4));
    assert_eq!(output[..4], floats(&[-2.5]));
    assert_eq!(task.report().diagnostics, Vec::<String>::new());
}

/// Where one dimension alone is open the library takes a tensor's new shape out of
/// the model, whatever it says.
#[test]
fn what_has_no_elements_is_an_error_though_one_dimension_alone_is_open() {
    let most = "<data axis=\"0\" mode=\"max\" sort=\"value\"/>";
    let model = net(
        &[
            layer(0, "Parameter", "<data element_type=\"f32\" shape=\"?,4\"/>", &[], Some("-1,4")),
            layer(
                1,
                "Const",
                "<data element_type=\"i64\" shape=\"\" offset=\"0\" size=\"8\"/>",
                &[],
                Some(""),
            ),
            layer(2, "TopK", most, &["-1,4", ""], Some("1,4")),
            layer(3, "Result", "", &["1,4"], None),
        ],
        &[(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0)],
    );
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &(model, 1i64.to_le_bytes().to_vec())).expect("a graph");
    let mut most_of = |rows: u32, numbers: &[f32]| {
        let context = task.init_execution_context(graph).expect("a context");
        task.set_input(context, 0, 1, &[rows, 4], &floats(numbers)).expect("set");
        task.compute(context).map_err(|halt| halt.sentence())?;
        let mut output = [0; 16];
        let length = task.get_output(context, 0, &mut output).expect("an output");
        Ok::<_, String>(output[..length as usize].to_vec())
    };
    let (rows, most) = ([1.0, 6.0, 3.0, 8.0, 5.0, 2.0, 7.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
    assert_eq!(most_of(2, &rows), Ok(floats(&most)));
    // However often.
    for _ in 0..3 {
        let none = most_of(0, &[]).expect_err("refused");
        assert!(none.contains("OpenVINO"), "{none}");
    }
    assert_eq!(most_of(1, &rows[..4]), Ok(floats(&rows[..4])));
}

/// The library makes one operator of a product with constants, which reads as many
/// numbers of each row as those have.
#[test]
fn factors_of_open_shapes_are_compared() {
    let weights = "<data element_type=\"f32\" shape=\"2,2\" offset=\"0\" size=\"16\"/>";
    let turned = "<data transpose_a=\"false\" transpose_b=\"true\"/>";
    let model = net(
        &[
            layer(0, "Parameter", "<data element_type=\"f32\" shape=\"?,?\"/>", &[], Some("-1,-1")),
            layer(1, "Const", weights, &[], Some("2,2")),
            layer(2, "MatMul", turned, &["-1,-1", "2,2"], Some("-1,2")),
            layer(3, "Result", "", &["-1,2"], None),
        ],
        &[(0, 0, 2, 0), (1, 0, 2, 1), (2, 2, 3, 0)],
    );
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &(model, floats(&[1.0, 2.0, 3.0, 4.0]))).expect("a graph");
    let mut product = |shape: [u32; 2], numbers: &[f32]| {
        let context = task.init_execution_context(graph).expect("a context");
        task.set_input(context, 0, 1, &shape, &floats(numbers)).expect("set");
        task.compute(context).map_err(|halt| halt.sentence())?;
        let mut output = [0; 64];
        let length = task.get_output(context, 0, &mut output).expect("an output");
        Ok::<_, String>(output[..length as usize].to_vec())
    };
    assert_eq!(product([1, 2], &[1.0, 1.0]), Ok(floats(&[3.0, 7.0])));
    let others =
        [([2, 1], &[1.0, 1.0][..]), ([2, 1], &[1.0, 1.0]), ([1, 3], &[1.0; 3]), ([1, 0], &[])];
    for (shape, numbers) in others {
        let error = product(shape, numbers).expect_err("of another size");
        assert!(error.contains("OpenVINO"), "{error}");
    }
    assert_eq!(product([2, 2], &[1.0, 0.0, 0.0, 1.0]), Ok(floats(&[1.0, 3.0, 2.0, 4.0])));
}

/// ARCHITECTURE.md, case 67.
#[test]
fn no_text_is_that_of_another_task() {
    let nn = nn_with(Operators::All);
    let together = Barrier::new(2);
    let refused = |mine: &str| {
        let model = through(mine, "", "4");
        let load = || {
            let mut task = context(&nn);
            together.wait();
            load(&mut task, &model).expect_err("no such operator")
        };
        std::iter::repeat_with(load).take(300).collect::<Vec<_>>()
    };
    let (ones, others) = std::thread::scope(|scope| {
        let others = scope.spawn(|| refused("Other2"));
        (refused("Mine1"), others.join().expect("no panic"))
    });
    for (told, of) in [(ones, "Other2"), (others, "Mine1")] {
        let anothers: Vec<_> = told.iter().filter(|text| text.contains(of)).collect();
        assert!(anothers.is_empty(), "{} of {}: {}", anothers.len(), told.len(), anothers[0]);
    }
}

/// A `TensorIterator` over 8 rows that says its output has two for each, and
/// writes one.
const PARTLY: &str = r#"<?xml version="1.0"?><net name="t" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data element_type="f32" shape="8,4"/>
 <output><port id="0" precision="FP32"><dim>8</dim><dim>4</dim></port></output></layer>
<layer id="1" name="rows" type="TensorIterator" version="opset1">
 <port_map>
  <input axis="0" external_port_id="0" internal_layer_id="0" start="0" end="-1" stride="1" part_size="1"/>
  <output axis="0" external_port_id="1" internal_layer_id="2" start="0" end="8" stride="1" part_size="2"/>
 </port_map>
 <input><port id="0" precision="FP32"><dim>8</dim><dim>4</dim></port></input>
 <output><port id="1" precision="FP32"><dim>16</dim><dim>4</dim></port></output>
 <body><layers>
  <layer id="0" name="row" type="Parameter" version="opset1"><data element_type="f32" shape="1,4"/>
   <output><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></output></layer>
  <layer id="1" name="negative" type="Negative" version="opset1">
   <input><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></input>
   <output><port id="1" precision="FP32"><dim>1</dim><dim>4</dim></port></output></layer>
  <layer id="2" name="out" type="Result" version="opset1">
   <input><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></input></layer>
 </layers><edges>
  <edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
  <edge from-layer="1" from-port="1" to-layer="2" to-port="0"/>
 </edges></body></layer>
<layer id="2" name="y" type="Result" version="opset1">
 <input><port id="0" precision="FP32"><dim>16</dim><dim>4</dim></port></input></layer>
</layers><edges>
 <edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
 <edge from-layer="1" from-port="1" to-layer="2" to-port="0"/>
</edges></net>"#;

/// ARCHITECTURE.md, case 68.
#[test]
fn what_an_inference_leaves_unwritten_is_zero() {
    let nn = nn_with(Operators::All);
    let mut task = context(&nn);
    let graph = load(&mut task, &(PARTLY.into(), vec![])).expect("a graph");
    let mut request = task.shared_graph(graph).take_request().expect("a request");
    request.write(0, TensorType::Fp32, &[8, 4], &floats(&[1.0; 32])).expect("written");
    let cancel = Cancel::default();
    let infer = |request: &mut Box<dyn Request>| {
        request.run(&cancel).expect("computed");
        let mut output = Vec::new();
        request.read(0, &mut |bytes| output = bytes.to_vec()).expect("an output");
        output
    };
    let expected = floats(&[[-1.0; 32], [0.0; 32]].concat());
    assert_eq!(infer(&mut request), expected);
    // What another task or the heap has left there.
    dirty(request.as_mut());
    assert_eq!(infer(&mut request), expected);
}

/// Writes into the output's own memory.
#[allow(unsafe_code, reason = "the memory is the request's, which nothing else uses now")]
fn dirty(request: &mut dyn Request) {
    let mut output = (std::ptr::null_mut::<u8>(), 0);
    let mut place = |bytes: &[u8]| output = (bytes.as_ptr().cast_mut(), bytes.len());
    request.read(0, &mut place).expect("an output");
    // SAFETY: the library gave this many bytes at this place, and no inference and
    // no other view of them is under way while the request is borrowed.
    unsafe { std::ptr::write_bytes(output.0, 0x5a, output.1) };
}

#[test]
fn an_input_that_is_handed_on_is_not_cleared() {
    let nn = nn();
    let input = "<data element_type=\"f32\" shape=\"4\"/>";
    let layers =
        [layer(0, "Parameter", input, &[], Some("4")), layer(1, "Result", "", &["4"], None)];
    let handed_on = (net(&layers, &[(0, 0, 1, 0)]), vec![]);
    let clamped = through("Clamp", "<data min=\"-9\" max=\"9\"/>", "4");
    for model in [handed_on, clamped] {
        let mut task = context(&nn);
        let graph = load(&mut task, &model).expect("a graph");
        let context = task.init_execution_context(graph).expect("a context");
        task.set_input(context, 0, 1, &[4], &floats(&[1.0, 2.0, 3.0, 4.0])).expect("set");
        // The input is set once for both.
        for _ in 0..2 {
            task.compute(context).expect("computed");
            let mut output = [0; 16];
            task.get_output(context, 0, &mut output).expect("an output");
            assert_eq!(output[..], floats(&[1.0, 2.0, 3.0, 4.0]));
        }
    }
}

/// A library with all the functions that are called, of a version that says it
/// is too old.
fn too_old(dir: &Path) -> PathBuf {
    let empty = native::FUNCTIONS
        .iter()
        .filter(|name| **name != "ov_get_openvino_version")
        .map(|name| format!("void *{name}(void) {{ return 0; }}\n"));
    let version = "struct version { const char *number, *description; };\n\
        int ov_get_openvino_version(struct version *v) {\n\
        v->number = \"2023.1.0-12185-old\"; v->description = \"old\"; return 0; }\n";
    let source = dir.join("old.c");
    std::fs::write(&source, empty.collect::<String>() + version).expect("written");
    let library = dir.join("libopenvino_c.so");
    let compiled = Command::new("cc")
        .args(["-w", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status()
        .expect("a C compiler, `cc`: this test compiles a library");
    assert!(compiled.success());
    library
}

#[test]
fn a_library_that_is_too_old_leaves_room_for_the_next() {
    let beside = nn().shared.config.openvino.search.executable.clone();
    let dir = tempfile::tempdir().expect("a folder");
    let old = too_old(dir.path());
    let error = native::load(&old).expect_err("too old");
    let told = format!(
        "OpenVINO 2023.1.0-12185-old found at `{}`, 2025.1 or newer is needed",
        old.display()
    );
    assert_eq!(error, told);
    let page = dir.path().join("page.so");
    std::fs::write(&page, "<html>").expect("written");
    let error = native::load(&page).expect_err("a page");
    assert_eq!(error, format!("`{}` is not a shared library", page.display()));
    let path = dir.path().as_os_str();
    let search =
        SearchEnv::from_lookup(beside, |name| (name == "LD_LIBRARY_PATH").then(|| path.to_owned()));
    let backend = OpenVino::new(OpenVinoConfig { search, ..OpenVinoConfig::default() }, u64::MAX);
    let library = backend.open().expect("the next one");
    assert_ne!(library.path.as_deref(), Some(&*old));
    assert!(!library.version.starts_with("2023"), "{library:?}");
    assert!(backend.devices().expect("it works").contains(&"CPU".to_owned()));
}
