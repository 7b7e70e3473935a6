//! Kinds of values: states, truth values, small floats, text.

use super::*;

/// `y = x + what was there before`, which is 0 at first, and is kept.
fn counter() -> (Vec<u8>, Vec<u8>) {
    let variable = "<data variable_id=\"v\" variable_type=\"f32\" variable_shape=\"1,4\"/>";
    let versioned = |layer: String| layer.replace("opset1", "opset6");
    let weights = "<data element_type=\"f32\" shape=\"1,4\" offset=\"0\" size=\"16\"/>";
    let input = "<data element_type=\"f32\" shape=\"1,4\"/>";
    let xml = net(
        &[
            layer(0, "Parameter", input, &[], Some("1,4")),
            layer(1, "Const", weights, &[], Some("1,4")),
            versioned(layer(2, "ReadValue", variable, &["1,4"], Some("1,4"))),
            layer(3, "Add", "<data auto_broadcast=\"numpy\"/>", &["1,4", "1,4"], Some("1,4")),
            versioned(layer(4, "Assign", variable, &["1,4"], Some("1,4"))),
            layer(5, "Result", "", &["1,4"], None),
        ],
        &[(0, 0, 3, 0), (1, 0, 2, 0), (2, 1, 3, 1), (3, 2, 4, 0), (3, 2, 5, 0)],
    );
    (xml, vec![0; 16])
}

#[test]
fn a_state_is_an_execution_contexts_own_and_begins_anew() {
    let nn = nn();
    assert!(nn.inspect("openvino", &[&counter().0, &counter().1]).expect("a model").stateful);
    for _ in 0..2 {
        let mut task = context(&nn);
        let graph = load(&mut task, &counter()).expect("a graph");
        let one = task.init_execution_context(graph).expect("a context");
        let other = task.init_execution_context(graph).expect("a context");
        for (context, sum) in [(one, 1.0), (one, 2.0), (other, 1.0), (one, 3.0)] {
            let output = infer(&mut task, context, &[1, 4], &[1.0; 4]);
            assert_eq!(output, floats(&[sum; 4]));
        }
    }
}

/// A model of one layer, from an input of this type.
fn one(ty: &str, from: &str, data: &str) -> (Vec<u8>, Vec<u8>) {
    let input = format!("<data element_type=\"{from}\" shape=\"4\"/>");
    let layers = [
        layer(0, "Parameter", &input, &[], Some("4")),
        layer(1, ty, data, &["4"], Some("4")),
        layer(2, "Result", "", &["4"], None),
    ];
    (net(&layers, &[(0, 0, 1, 0), (1, 1, 2, 0)]), Vec::new())
}

#[test]
fn truth_values_are_bytes_and_bf16_has_two() {
    let nn = nn();
    let mut task = context(&nn);
    let mut ran = |model, ty: u8, input: &[u8]| {
        let graph = load(&mut task, &model)?;
        let context = task.init_execution_context(graph).map_err(Halt::sentence)?;
        task.set_input(context, 0, ty, &[4], input).map_err(Halt::sentence)?;
        task.compute(context).map_err(Halt::sentence)?;
        let mut output = vec![0xaa; 64];
        let length = task.get_output(context, 0, &mut output).map_err(Halt::sentence)?;
        output.truncate(length as usize);
        Ok::<_, String>(output)
    };
    // Whatever is not 0 is true, and comes out as 1.
    let not = one("LogicalNot", "boolean", "");
    assert_eq!(ran(not, 3, &[0, 1, 2, 255]), Ok(vec![1, 0, 0, 0]));
    let float = "<data destination_type=\"f32\"/>";
    let counted = one("Convert", "boolean", float);
    assert_eq!(ran(counted, 3, &[0, 1, 2, 255]), Ok(floats(&[0.0, 1.0, 1.0, 1.0])));
    let brain = one("Convert", "f32", "<data destination_type=\"bf16\"/>");
    let bytes = [0x3f80u16, 0x4000, 0xbf00, 0x0000].map(u16::to_le_bytes).concat();
    assert_eq!(ran(brain, 1, &floats(&[1.0, 2.0, -0.5, 0.0])), Ok(bytes));
}

#[test]
fn no_tensor_goes_into_an_input_of_text() {
    let nn = nn();
    let mut task = context(&nn);
    let graph = load(&mut task, &one("ShapeOf", "string", "")).expect("a graph");
    let context = task.init_execution_context(graph).expect("a context");
    for ty in 0..6 {
        let set = task.set_input(context, 0, ty, &[4], &[0; 32]).map_err(Halt::sentence);
        assert!(set.is_err(), "type {ty}");
    }
    let set = task.set_input(context, 0, 3, &[4], &[0; 4]).map_err(Halt::sentence);
    assert!(set.expect_err("text").contains("the model's input is string"));
}
