use proptest::prelude::*;

use super::write::{F32, I32, attribute, constant, node, placeholder};
use super::*;
use crate::nn::onnx::write::{bytes, int};

fn refused(nodes: &[Vec<u8>]) -> String {
    scan(&[&nodes.concat()]).expect_err("refused").text
}

#[test]
fn a_graph_is_read() {
    let graph = [
        placeholder("x", &[-1, 4]),
        constant("b", I32, &[2], [int(7, 3), int(7, -1)].concat()),
        node("y", "AddV2", &["x", "b:0", "^b"], &[attribute("T", int(6, F32))]),
    ]
    .concat();
    let nodes = scan(&[&graph]).expect("a graph");
    assert_eq!((nodes[2].name, nodes[2].op), ("y", "AddV2"));
    assert_eq!(nodes[2].inputs, [(0, 0), (1, 0)]);
    let Some(Attribute::Shape(Some(dims))) = nodes[0].attribute("shape") else {
        panic!("{:?}", nodes[0])
    };
    assert_eq!(dims, &[None, Some(4)]);
    let Some(Attribute::Tensor(tensor)) = nodes[1].attribute("value") else {
        panic!("{:?}", nodes[1])
    };
    assert_eq!((tensor.ints(2), tensor.ints(1)), (Some(vec![3, -1]), None));
}

#[test]
fn another_file_is_another_encoding() {
    let refusal = scan(&[b"\x08\x07\x12\nonnx-wally"]).expect_err("ONNX");
    assert_eq!(refusal.errno, Errno::InvalidEncoding);
    assert!(refusal.text.contains("(14 bytes, beginning with 08 07 12 0a"), "{refusal}");
    assert!(scan(&[]).expect_err("none").text.ends_with("not 0"));
}

#[test]
fn constants_hold_what_their_shape_says() {
    let taken = |dims: &[i64], fields: Vec<u8>| {
        let graph = constant("b", I32, dims, fields);
        scan(&[&graph]).map(|nodes| match nodes[0].attribute("value") {
            Some(Attribute::Tensor(tensor)) => tensor.ints(100),
            other => panic!("{other:?}"),
        })
    };
    let four = bytes(4, [1u8, 0, 0, 0]);
    assert_eq!(taken(&[], four.clone()), Ok(Some(vec![1])));
    assert_eq!(taken(&[3], int(7, 5)), Ok(Some(vec![5; 3])), "one stands for all");
    assert_eq!(taken(&[0], Vec::new()), Ok(Some(Vec::new())));
    assert_eq!(taken(&[2], bytes(7, [3, 4])), Ok(Some(vec![3, 4])), "packed");
    for (dims, fields) in [
        (&[2][..], four.clone()),
        (&[2], bytes(4, [0; 9])),
        (&[3], bytes(7, [3, 4])),
        (&[1], Vec::new()),
        (&[1], int(10, 5)),
        (&[1], [four.clone(), int(7, 5)].concat()),
        (&[-1], four.clone()),
        (&[1 << 40, 1 << 40], four),
        (&[1; 17], int(7, 5)),
    ] {
        assert!(taken(dims, fields.clone()).is_err(), "{dims:?} {fields:?}");
    }
    // A few bytes that stand for gigabytes.
    let large = taken(&[1 << 30], int(7, 0)).expect_err("refused").text;
    assert!(large.contains("constants take 4294967296 bytes"), "{large}");
}

#[test]
fn each_node_is_made_once_and_before_it_is_used() {
    let x = placeholder("x", &[1]);
    assert!(refused(&[x.clone(), x.clone()]).contains("two nodes of the name `x`"));
    for input in ["y", "z", "^z", "x/y"] {
        let late = refused(&[x.clone(), node("y", "Relu", &[input], &[])]);
        assert!(late.contains("before it is made"), "{late}");
    }
    assert!(refused(&[x.clone(), node("y", "Relu", &["x:a"], &[])]).contains("not a name"));
    assert!(refused(&[node("y:0", "Relu", &[], &[])]).contains("with an invalid name"));
    let twice = [attribute("T", int(6, 1)), attribute("T", int(6, 3))];
    assert!(refused(&[x, node("y", "Relu", &["x"], &twice)]).contains("attribute `T` twice"));
}

#[test]
fn what_is_more_than_a_frozen_graph_is_refused_by_name() {
    let library = bytes(2, bytes(1, bytes(1, bytes(1, "f"))));
    assert!(refused(&[placeholder("x", &[1]), library]).contains("has functions"));
    let function = attribute("f", bytes(10, bytes(1, "g")));
    let calls = [placeholder("x", &[1]), node("y", "While", &["x"], &[function])];
    assert!(refused(&calls).contains("`f`, which is a function"));
    for ty in [7, 8, 11, 18, 20, 21] {
        let typed = node("x", "Placeholder", &[], &[attribute("dtype", int(6, ty))]);
        assert!(refused(&[typed]).contains(&format!("of the type {ty}")), "{ty}");
    }
    let text = constant("b", 7, &[1], bytes(8, "text"));
    assert!(refused(&[text]).contains("of the type 7"));
    let hidden = constant("b", F32, &[1], bytes(8, "text"));
    assert!(refused(&[hidden]).contains("a constant of text"));
    let both = attribute("a", [int(3, 1), int(6, 1)].concat());
    assert!(refused(&[node("y", "Relu", &[], &[both])]).contains("two values"));
}

#[test]
fn nodes_come_before_others_whose_inputs_they_are() {
    let x = placeholder("x", &[1]);
    let graph = [x.clone(), node("y", "AddV2", &["^x", "x", "x:1"], &[])].concat();
    let nodes = scan(&[&graph]).expect("a graph");
    let names = [(1, "z")].into();
    let renamed = with_inputs(&graph, &nodes[1], &names).expect("a node");
    assert_eq!(renamed, node("y", "AddV2", &["^x", "x", "z"], &[]));
    let before = [node("z", "Relu", &["x"], &[]), renamed].concat();
    let rewritten = rewrite(&graph, &[(nodes[1].place.start, before)].into()).expect("a graph");
    let nodes = scan(&[&rewritten]).expect("a graph");
    assert_eq!(
        (nodes[1].name, nodes[2].name, &nodes[2].inputs[..]),
        ("z", "y", &[(0, 0), (1, 0)][..])
    );
    assert!(rewritten.starts_with(&x));
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(scan(&[&[&b"\x0a"[..], &bytes].concat()]));
    }

    #[test]
    fn any_change_comes_to_an_end(at in 0usize..200, byte in any::<u8>()) {
        let mut file = [
            placeholder("x", &[-1, 4]),
            constant("b", I32, &[2], [int(7, 3), int(7, -1)].concat()),
            node("y", "AddV2", &["x", "b"], &[attribute("T", int(6, F32))]),
        ]
        .concat();
        let at = at % file.len();
        file[at] = byte;
        drop(scan(&[&file]));
    }
}
