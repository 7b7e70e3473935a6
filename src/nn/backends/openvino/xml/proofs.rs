//! What is proven of a model's layers, put into it, and cut out of it.

use std::fmt::Write as _;

use super::tests::refused_by;
use super::*;

/// A chain of layers with one input and one output: the first is of a constant,
/// the others read the one before.
fn chain(layers: &[(&str, &str)]) -> String {
    let (mut all, mut edges) = (String::new(), String::new());
    for (id, (ty, more)) in layers.iter().enumerate() {
        let input = if id > 0 { "<input><port id='0'/></input>" } else { "" };
        let _ = write!(
            all,
            "<layer id='{id}' name='n{id}' type='{ty}' version='opset8'>{more}{input}\
             <output><port id='1' precision='FP32'/></output></layer>"
        );
        if let Some(before) = id.checked_sub(1) {
            let _ = write!(
                edges,
                "<edge from-layer='{before}' from-port='1' to-layer='{id}' to-port='0'/>"
            );
        }
    }
    format!("<net><layers>{all}</layers><edges>{edges}</edges></net>")
}

fn checked(xml: &str) -> Scan {
    scan(xml.as_bytes(), &[0; 100], Bounds::default()).expect(xml)
}

fn mended(xml: &str) -> String {
    String::from_utf8(checked(xml).mended.expect("mended")).expect("text")
}

const X: (&str, &str) = ("Parameter", "<data element_type='f32' shape='?,4'/>");

#[test]
fn a_value_that_may_be_empty_is_seen_to_once_for_all_that_read_it() {
    // Two layers that need elements read what the first one makes.
    let twice = "<net><layers>\
        <layer id='0' name='x' type='Parameter' version='opset1'>\
        <data element_type='f32' shape='?,4'/><output><port id='0'/></output></layer>\
        <layer id='7' name='a' type='GatherElements' version='opset6'>\
        <input><port id='0'/></input><output><port id='1'/></output></layer>\
        <layer id='8' name='b' type='TopK' version='opset11'>\
        <input><port id='0'/></input><output><port id='1'/></output></layer>\
        <layer id='9' name='y' type='Result' version='opset1'><input><port id='0'/></input></layer>\
        </layers><edges>\
        <edge from-layer='0' from-port='0' to-layer='7' to-port='0'/>\
        <edge from-layer='0' from-port='0' to-layer='8' to-port='0'/>\
        <edge from-layer='0' from-port='0' to-layer='9' to-port='0'/></edges></net>";
    let text = mended(twice);
    assert_eq!(text.matches("type=\"Reshape\"").count(), 1, "{text}");
    for to in [7, 8] {
        let edge =
            format!("<edge from-layer=\"24\" from-port=\"3\" to-layer=\"{to}\" to-port=\"0\"/>");
        assert!(text.contains(&edge), "{to}: {text}");
    }
    // A result keeps the name of what it gives.
    assert!(text.contains("<edge from-layer='0' from-port='0' to-layer='9'"), "{text}");
}

#[test]
fn what_follows_from_a_value_with_elements_is_not_seen_to_again() {
    let topk = |between: &[(&str, &str)]| {
        let all = [&[X, ("TopK", "")], between, &[("TopK", "")]].concat();
        mended(&chain(&all)).matches("type=\"Reshape\"").count()
    };
    // What the first one gives may have nothing, by its count.
    assert_eq!(topk(&[]), 2);
    let relu = [X, ("ReLU", ""), ("GatherElements", "")];
    assert_eq!(mended(&chain(&relu)).matches("type=\"Reshape\"").count(), 1);
    let fixed = ("Parameter", "<data element_type='f32' shape='2,4'/>");
    assert_eq!(checked(&chain(&[fixed, ("ReLU", ""), ("GatherElements", "")])).mended, None);
    let empty = ("Parameter", "<data element_type='f32' shape='0,4'/>");
    let text = refused_by(&chain(&[empty, ("GatherElements", "")]), Bounds::default());
    assert!(text.contains("its input 0 may be empty"), "{text}");
}

#[test]
fn what_a_model_says_to_the_librarys_own_parts_is_cut_out() {
    let said = "<rt_info><attribute name='fused_names' version='0' value='n0'/></rt_info>";
    let ours = "<rt_info><attribute name='fused_names' version='0' value='n0'/>\
                <attribute name='primitives_priority' version='0' value='cpu:jit_brgemm'/></rt_info>";
    assert_eq!(checked(&chain(&[(X.0, &format!("{}{said}", X.1))])).mended, None);
    let text = mended(&chain(&[(X.0, &format!("{}{ours}", X.1))]));
    assert!(!text.contains("rt_info") && text.contains("<data "), "{text}");
    // At a port, and of the model itself.
    let port = format!(
        "<net><layers><layer id='0' name='x' type='Parameter' version='opset1'>\
         <data element_type='f32' shape='4'/><output><port id='0'><dim>4</dim>{}</port></output>\
         </layer></layers><rt_info><runtime_options><A value='1'/></runtime_options></rt_info>\
         <edges></edges><meta_data/></net>",
        ours.replace("primitives_priority", "strides")
    );
    let text = mended(&port);
    assert!(!text.contains("rt_info") && !text.contains("meta_data"), "{text}");
    assert!(
        text.contains("<dim>4</dim></port>") && text.ends_with("<edges></edges></net>"),
        "{text}"
    );
    assert!(scan(text.as_bytes(), &[], Bounds::default()).is_ok_and(|scan| scan.mended.is_none()));
}

#[test]
fn how_a_layer_is_computed_and_older_pre_processing_are_refused() {
    for key in ["PrimitivesPriority", "alt_width"] {
        let data = format!("<data element_type='f32' shape='4' {key}='cpu:ref'/>");
        let text = refused_by(&chain(&[(X.0, &data)]), Bounds::default());
        assert!(text.contains(&format!("its `{key}` says how")), "{text}");
    }
    let older = "<net><layers/><edges/><pre-process><channel id='0'><mean offset='0' size='9'/>\
                 </channel></pre-process></net>";
    assert!(refused_by(older, Bounds::default()).contains("pre-processing of an older form"));
    let all = Bounds { operators: Operators::All, ..Bounds::default() };
    assert!(scan(older.as_bytes(), &[], all).is_ok());
}

#[test]
fn a_model_names_no_more_elements_than_a_layer_has() {
    let many: String = (0..100).fold(String::new(), |mut all, n| {
        let _ = write!(all, "<e{n}/>");
        all
    });
    let text = refused_by(&chain(&[(X.0, &many)]), Bounds::default());
    assert!(text.contains("a layer of too many elements"), "{text}");
}

/// The layers and numbers that a proof looks at.
fn steps(xml: &str, weights: &[u8]) -> u64 {
    let scanner = Scanner {
        xml: xml.as_bytes(),
        at: 0,
        open: Vec::new(),
        weights,
        elements: 0,
        layers: Layers::default(),
    };
    let (_, layers) = scanner.run().expect("a model");
    prove::prove(&layers, weights).expect("proven").steps
}

/// Layers that all read the same long list of indices, each with a mend.
fn gathers(count: usize) -> String {
    let mut layers = String::from(
        "<layer id='0' name='x' type='Parameter' version='opset1'>\
         <data element_type='f32' shape='?'/><output><port id='0'/></output></layer>\
         <layer id='1' name='i' type='Const' version='opset1'>\
         <data element_type='u8' shape='4096' offset='0' size='4096'/>\
         <output><port id='0'/></output></layer>\
         <layer id='2' name='a' type='Const' version='opset1'>\
         <data element_type='u8' shape='' offset='0' size='1'/>\
         <output><port id='0'/></output></layer>",
    );
    let mut edges = String::new();
    for id in 3..count + 3 {
        let _ = write!(
            layers,
            "<layer id='{id}' name='g' type='Gather' version='opset8'>\
             <input><port id='0'/><port id='1'/><port id='2'/></input>\
             <output><port id='3'/></output></layer>"
        );
        for slot in 0..3 {
            let _ = write!(
                edges,
                "<edge from-layer='{slot}' from-port='0' to-layer='{id}' to-port='{slot}'/>"
            );
        }
    }
    format!("<net><layers>{layers}</layers><edges>{edges}</edges></net>")
}

#[test]
fn the_steps_of_a_proof_grow_as_the_model_does() {
    let broadcasts = |count: usize| {
        let first = ("Parameter", "<data element_type='f32' shape='?'/>");
        chain(&[&[first], &vec![("Broadcast", ""); count][..]].concat())
    };
    let relus = |count: usize| chain(&[&[X], &vec![("TopK", ""); count][..]].concat());
    let models: [&dyn Fn(usize) -> String; 3] = [&gathers, &broadcasts, &relus];
    for model in models {
        let weights = [0; 4096];
        let (small, large) = (model(200), model(400));
        let (few, many) = (steps(&small, &weights), steps(&large, &weights));
        assert!(many < 3 * few, "{few} steps for 200 layers, {many} for 400");
        // A list is looked at once for each layer that reads it, and no more often.
        assert!(many < 400 * 5000, "{many}");
    }
}

/// A chain of these outputs, as the model declares them.
fn declared(shapes: &[&str]) -> String {
    let dims = |shape: &str| {
        let dims = shape.split(',').filter(|dim| !dim.is_empty());
        dims.map(|dim| format!("<dim>{dim}</dim>")).collect::<String>()
    };
    let (mut layers, mut edges) = (String::new(), String::new());
    for (id, shape) in shapes.iter().enumerate() {
        let (ty, more) = match id {
            0 => ("Parameter", format!("<data element_type='f32' shape='{shape}'/>")),
            _ => ("ReLU", "<input><port id='0'/></input>".to_owned()),
        };
        let _ = write!(
            layers,
            "<layer id='{id}' name='layer{id}' type='{ty}' version='opset1'>{more}\
             <output><port id='1' precision='FP32'>{}</port></output></layer>",
            dims(shape)
        );
        if id > 0 {
            let _ = write!(
                edges,
                "<edge from-layer='{}' from-port='1' to-layer='{id}' to-port='0'/>",
                id - 1
            );
        }
    }
    format!("<net><layers>{layers}</layers><edges>{edges}</edges></net>")
}

fn within(tensor_bytes: u64) -> Bounds {
    Bounds { tensor_bytes, ..Bounds::default() }
}

#[test]
fn a_model_that_declares_more_memory_than_a_task_has_is_refused_with_the_layer() {
    let model = declared(&["1,1000", "1,1000000", "1,10"]);
    assert!(scan(model.as_bytes(), &[], within(4_004_000)).is_ok());
    let text = refused_by(&model, within(4_003_999));
    assert_eq!(
        text,
        "the model's tensors would take 4004000 bytes at the layer `layer1` (ReLU, 4000000 bytes), \
         more than --task-tensor-memory, 4003999"
    );
    // It is so where all operators are trusted, too.
    let all = Bounds { operators: Operators::All, ..within(1000) };
    assert!(refused_by(&model, all).contains("--task-tensor-memory"));
}

#[test]
fn open_shapes_are_left_to_the_runtimes_budget() {
    assert!(scan(declared(&["?,1000", "-1,1000000"]).as_bytes(), &[], within(1000)).is_ok());
}

#[test]
fn shapes_over_64_bits_are_over_any_limit() {
    let huge = declared(&["4", "9223372036854775807,9223372036854775807,3"]);
    assert!(refused_by(&huge, within(u64::MAX / 8 - 1)).contains("at the layer `layer1`"));
    let zero = declared(&["4", "9223372036854775807,9223372036854775807,0"]);
    assert!(scan(zero.as_bytes(), &[], within(1000)).is_ok());
    let no_number = declared(&["4", "99999999999999999999"]);
    assert!(scan(no_number.as_bytes(), &[], within(1000)).is_ok());
}
