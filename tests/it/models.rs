//! Models that a stranger hands over: each hostile one by bytes, from the guest
//! itself, and by name, from a folder that the operator allows. What is not
//! proven is refused with its operator and layer; what is kept in range gives the
//! model's own numbers; and the next task is well (ARCHITECTURE.md, cases 55, 56,
//! 57 and 68).

mod guest;

use self::guest::{Model, Net, f32s, guest, i64s, port};
use crate::support::{Bench, assets, fixtures, stdout};
use proplet::nn::{Nn, NnConfig, OpenVinoConfig, SearchEnv};
use proplet::task::Outcome;
use std::fmt::Write as _;
use std::path::Path;

const UNSUPPORTED: &str = "errno 6\n";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }) + "\n"
}

fn bench(root: &Path) -> Bench {
    let executable = assets().join("debug/proplet");
    let openvino = OpenVinoConfig {
        search: SearchEnv::from_lookup(Some(executable), |_| None),
        ..OpenVinoConfig::default()
    };
    let config =
        NnConfig { openvino, cache_bytes: 64 << 20, model_bytes: 64 << 20, ..NnConfig::default() };
    let bench = Bench::with_nn(Nn::new(config)).root(fixtures(), false);
    bench.root(root.canonicalize().expect("a folder"), false)
}

/// Runs the model by bytes and by name, each followed by a task that must be well.
fn both(model: &Model, check: impl Fn(&Outcome, bool)) {
    let dir = tempfile::tempdir().expect("a folder");
    let hostile = dir.path().canonicalize().expect("a folder").join("hostile");
    std::fs::create_dir(&hostile).expect("made");
    std::fs::write(hostile.join("model.xml"), &model.xml).expect("written");
    std::fs::write(hostile.join("model.bin"), &model.weights).expect("written");
    let bench = bench(dir.path());
    let named = format!("nn,nn-graph=openvino::{}", hostile.display());
    for by_name in [false, true] {
        let flags = if by_name { named.as_str() } else { "nn" };
        check(&bench.guest(guest(model, by_name)).cli_args(&["-S", flags]).run(), by_name);
        let tiny = format!("nn,nn-graph=openvino::{}", fixtures().join("models/tiny").display());
        let next = bench.wat("nn-tiny").cli_args(&["-S", &tiny]).run();
        assert_eq!(stdout(&next), "2\n0\n6\n4\n");
    }
}

/// It is refused before it is loaded, with these words: to the guest as an errno,
/// by name as the task's error.
#[track_caller]
fn refused(model: &Model, words: &[&str]) {
    both(model, |outcome, by_name| {
        let told = match by_name {
            false => {
                assert_eq!(stdout(outcome), UNSUPPORTED, "{:?}", outcome.diagnostics);
                outcome.diagnostics.join("; ")
            }
            true => outcome.verdict.as_ref().expect_err("refused").to_string(),
        };
        for word in words {
            assert!(told.contains(word), "`{word}` is not in: {told}");
        }
    });
}

/// It gives this.
#[track_caller]
fn gives(model: &Model, bytes: &[u8]) {
    both(model, |outcome, _| assert_eq!(stdout(outcome), hex(bytes)));
}

/// `x[indices]` of four numbers, with indices that are the guest's or the
/// model's, of so many.
fn gather(indices: &[i64], constant: bool, open: bool) -> Model {
    let mut net = Net::default();
    let count = indices.len().to_string();
    let x = net.input("i64", if open { "?" } else { "4" }, &[4], i64s(&[7, 8, 9, 10]));
    let places = match constant {
        true => net.constant("i64", &count, &i64s(indices)),
        false => net.input("i64", &count, &[indices.len() as u32], i64s(indices)),
    };
    let axis = net.constant("i64", "", &i64s(&[0]));
    let gathered = net.layer(
        "Gather",
        "opset8",
        "<data batch_dims='0'/>",
        &[x, places, axis],
        ("i64", &count),
    );
    net.model(gathered)
}

/// ARCHITECTURE.md, case 55.
#[test]
fn indices_out_of_range_give_the_models_own_numbers_or_nothing() {
    // A size that is known, and one that is not.
    for open in [false, true] {
        let of_the_guest = gather(&[1, 3, -1, -4], false, open);
        gives(&of_the_guest, &i64s(&[8, 10, 10, 7]));
        let far = gather(&[1, 1_000_000, i64::MAX, -1_000_000], false, open);
        gives(&far, &i64s(&[8, 10, 10, 7]));
    }
    gives(&gather(&[3, -4], true, false), &i64s(&[10, 7]));
    let far = gather(&[3, 4], true, false);
    gives(&far, &i64s(&[10, 10]));
}

/// ARCHITECTURE.md, case 55.
#[test]
fn rows_of_indices_are_proven_or_refused() {
    let gather = |indices: &[i64], constant: bool| {
        let mut net = Net::default();
        let x = net.input("f32", "2,2", &[2, 2], f32s(&[1.0, 2.0, 3.0, 4.0]));
        let places = match constant {
            true => net.constant("i64", "1,2", &i64s(indices)),
            false => net.input("i64", "1,2", &[1, 2], i64s(indices)),
        };
        let data = "<data batch_dims='0'/>";
        let gathered = net.layer("GatherND", "opset8", data, &[x, places], ("f32", "1"));
        net.model(gathered)
    };
    gives(&gather(&[1, 0], true), &f32s(&[3.0]));
    let words = ["GatherND (layer `layer2`)", "--nn-operators=all"];
    refused(&gather(&[1, 2_000_000], true), &words);
    refused(&gather(&[1, 0], false), &words);
}

/// ARCHITECTURE.md, case 56.
#[test]
fn a_step_of_0_is_refused_and_others_are_taken() {
    let slice = |step: i64, constant: bool| {
        let mut net = Net::default();
        let x = net.input("f32", "4", &[4], f32s(&[1.0, 2.0, 3.0, 4.0]));
        let begin = net.constant("i64", "1", &i64s(&[0]));
        let end = net.constant("i64", "1", &i64s(&[4]));
        let step = match constant {
            true => net.constant("i64", "1", &i64s(&[step])),
            false => net.input("i64", "1", &[1], i64s(&[step])),
        };
        let data = "<data begin_mask='0' end_mask='0' new_axis_mask='0' shrink_axis_mask='0' \
                    ellipsis_mask='0'/>";
        let of = [x, begin, end, step];
        let sliced = net.layer("StridedSlice", "opset1", data, &of, ("f32", "2"));
        net.model(sliced)
    };
    gives(&slice(2, true), &f32s(&[1.0, 3.0]));
    refused(&slice(0, true), &["StridedSlice (layer `layer4`)", "a step (input 3) is 0"]);
    refused(&slice(0, false), &["StridedSlice (layer `layer4`)", "is not a constant"]);
    let range = |step: i64| {
        let mut net = Net::default();
        let first = net.constant("i64", "", &i64s(&[0]));
        let end = net.input("i64", "", &[], i64s(&[3]));
        let step = net.constant("i64", "", &i64s(&[step]));
        let data = "<data output_type='i64'/>";
        let numbers = net.layer("Range", "opset4", data, &[first, end, step], ("i64", "?"));
        net.model(numbers)
    };
    gives(&range(1), &i64s(&[0, 1, 2]));
    refused(&range(0), &["Range (layer `layer3`)", "a step (input 2) is 0"]);
}

/// ARCHITECTURE.md, case 57.
#[test]
fn labels_axes_and_sizes_out_of_range_are_refused() {
    let mut net = Net::default();
    let logits = net.input("f32", "1,4,5", &[1, 4, 5], f32s(&[0.5; 20]));
    let lengths = net.constant("i64", "1", &i64s(&[4]));
    let labels = net.constant("i64", "1,4", &i64s(&[1_000_000, 1, 2, 3]));
    let data =
        "<data preprocess_collapse_repeated='false' ctc_merge_repeated='true' unique='false'/>";
    let of = [logits, lengths, labels, lengths];
    let loss = net.layer("CTCLoss", "opset4", data, &of, ("f32", "1"));
    refused(&net.model(loss), &["CTCLoss (layer `layer3`)", "labels"]);

    let dft = |axis: i64| {
        let mut net = Net::default();
        let x = net.input("f32", "2,4,2", &[2, 4, 2], f32s(&[1.0; 16]));
        let axes = net.constant("i64", "1", &i64s(&[axis]));
        let waves = net.layer("DFT", "opset7", "<data/>", &[x, axes], ("f32", "2,4,2"));
        net.model(waves)
    };
    let mut expected = [0.0; 16];
    for at in [0, 1, 8, 9] {
        expected[at] = 4.0;
    }
    gives(&dft(1), &f32s(&expected));
    refused(&dft(100), &["DFT (layer `layer2`)", "its axis 100 is not a dimension"]);

    let mut net = Net::default();
    let x = net.input("f32", "1,12,9", &[1, 12, 9], f32s(&[1.0; 108]));
    let size = net.constant("i64", "2", &i64s(&[4000, 4000]));
    let kernel = net.constant("i64", "2", &i64s(&[2, 2]));
    let data = "<data strides='1,1' dilations='1,1' pads_begin='0,0' pads_end='0,0'/>";
    let image = net.layer("Col2Im", "opset15", data, &[x, size, kernel], ("f32", "1,3,4000,4000"));
    refused(&net.model(image), &["Col2Im (layer `layer3`)"]);
}

/// A body that negates one row; `back` gives what it made to it again.
fn row(condition: bool) -> String {
    let goes_on = match condition {
        true => {
            "<layer id='3' name='on' type='Const' version='opset1'>\
             <data element_type='boolean' shape='1' offset='9' size='1'/>\
             <output><port id='0' precision='BOOL'><dim>1</dim></port></output></layer>\
             <layer id='4' name='goes' type='Result' version='opset1'>\
             <input><port id='0'/></input></layer>"
        }
        false => "",
    };
    let edge = "<edge from-layer='3' from-port='0' to-layer='4' to-port='0'/>";
    format!(
        "<body><layers>\
         <layer id='0' name='row' type='Parameter' version='opset1'>\
         <data element_type='f32' shape='1,4'/><output>{0}</output></layer>\
         <layer id='1' name='negative' type='Negative' version='opset1'>\
         <input><port id='0'/></input><output>{1}</output></layer>\
         <layer id='2' name='out' type='Result' version='opset1'>\
         <input><port id='0'/></input></layer>{goes_on}</layers><edges>\
         <edge from-layer='0' from-port='0' to-layer='1' to-port='0'/>\
         <edge from-layer='1' from-port='1' to-layer='2' to-port='0'/>{2}</edges></body>",
        port(0, "f32", "1,4"),
        port(1, "f32", "1,4"),
        if condition { edge } else { "" },
    )
}

/// ARCHITECTURE.md, case 68: what an iteration leaves unwritten is read by a layer
/// of the model itself, so it is refused.
#[test]
fn an_output_that_a_body_writes_in_part_is_refused() {
    let iterated = |part: &str, rows: &str| {
        let mut net = Net::default();
        let x = net.input("f32", "8,4", &[8, 4], f32s(&[1.0; 32]));
        let map = format!(
            "<port_map>\
             <input axis='0' external_port_id='0' internal_layer_id='0' start='0' end='-1' \
             stride='1' part_size='1'/>\
             <output axis='0' external_port_id='1' internal_layer_id='2' start='0' end='-1' \
             stride='1' part_size='{part}'/></port_map>{}",
            row(false)
        );
        let shape = format!("{rows},4");
        let each = net.layer("TensorIterator", "opset1", &map, &[x], ("f32", &shape));
        let sum = net.layer("Abs", "opset1", "", &[each], ("f32", &shape));
        net.model(sum)
    };
    gives(&iterated("1", "8"), &f32s(&[1.0; 32]));
    let words = ["TensorIterator (layer `layer1`)", "its body writes parts"];
    refused(&iterated("2", "16"), &words);

    // A loop that runs no times writes nothing.
    let looped = |times: Option<i64>, back: bool| {
        let mut net = Net::default();
        let count = match times {
            Some(times) => net.constant("i64", "", &i64s(&[times])),
            None => net.input("i64", "", &[], i64s(&[0])),
        };
        net.weights.resize(8, 0);
        let on = net.constant("boolean", "1", &[1]);
        net.weights.push(1);
        let x = net.input("f32", "1,4", &[1, 4], f32s(&[1.0, 2.0, 3.0, 4.0]));
        let edges = "<back_edges><edge from-layer='2' to-layer='0'/></back_edges>";
        let map = format!(
            "<port_map><input external_port_id='2' internal_layer_id='0'/>\
             <output external_port_id='-1' internal_layer_id='4' purpose='execution_condition'/>\
             <output external_port_id='3' internal_layer_id='2'/></port_map>{}{}",
            if back { edges } else { "" },
            row(true)
        );
        let last = net.layer("Loop", "opset5", &map, &[count, on, x], ("f32", "1,4"));
        let sum = net.layer("Abs", "opset1", "", &[last], ("f32", "1,4"));
        net.model(sum)
    };
    let x = f32s(&[1.0, 2.0, 3.0, 4.0]);
    gives(&looped(Some(3), false), &x);
    // What the body was to be given comes out.
    gives(&looped(Some(0), true), &x);
    gives(&looped(None, true), &x);
    let words = ["Loop (layer `layer3`)", "it may run no times"];
    refused(&looped(Some(0), false), &words);
    refused(&looped(None, false), &words);
}

/// What the library and its CPU plugin have for themselves crashes or worse in a
/// model's hands.
#[test]
fn operators_that_are_in_no_opset_are_refused() {
    for (set, operator) in [
        ("SnippetsOpset", "Buffer"),
        ("cpu_plugin_opset", "ReadValueWithSubgraph"),
        ("ie_internal_opset", "GatherCompressed"),
        ("extension", "SelectiveSSM"),
    ] {
        let mut net = Net::default();
        let x = net.input("f32", "2,3", &[2, 3], f32s(&[1.0; 6]));
        let own = net.layer(operator, set, "", &[x], ("f32", "2,3"));
        let layer = format!("{operator} (layer `layer1`)");
        refused(&net.model(own), &[&layer, "it is in none of OpenVINO's opsets"]);
    }
}
