use super::write::*;
use super::*;

fn refused(file: &[u8]) -> String {
    scan(&[file]).expect_err("refused").text
}

fn refused_graph(graph: &[Vec<u8>]) -> String {
    refused(&model(graph))
}

#[test]
fn a_model_is_read() {
    let file = add();
    let model = scan(&[&file]).expect("a model");
    assert_eq!((model.opset, model.nodes), (17, 2));
    let input = &model.graph.inputs[0];
    let shape = Some(vec![None, Some(4)]);
    assert_eq!((input.name, &input.tensor), ("x", &Some(Type { element: Element::F32, shape })));
    let ops: Vec<_> = model.graph.nodes.iter().map(|node| (node.op, &node.inputs[..])).collect();
    assert_eq!(ops, [("Add", &["x", "b"][..]), ("Relu", &["sum"])]);
    assert_eq!(model.graph.outputs[0].name, "y");
    assert_eq!(model.graph.initializers[0].shape, [4]);
}

#[test]
fn attributes_constants_and_branches_are_read() {
    let then = [node("Identity", &["x"], &["t"], &[]), output("t", 1, &[4])];
    let other = [node("Neg", &["x"], &["e"], &[]), output("e", 1, &[4])];
    let file = model(&[
        input("x", 1, &[4]),
        input("c", 9, &[]),
        ints("i", &[2], &[-1, 3]),
        node("Gather", &["x", "i"], &["g"], &[attribute("axis", -1), list("l", &[5, -6])]),
        node("If", &["c"], &["y"], &[branch("then_branch", &then), branch("else_branch", &other)]),
        output("y", 1, &[4]),
    ]);
    let model = scan(&[&file]).expect("a model");
    assert_eq!(model.nodes, 4, "those of branches are counted");
    let [gather, choice] = &model.graph.nodes[..] else { panic!("two nodes") };
    assert!(matches!(gather.setting("axis"), Some(Setting::Int(-1))));
    assert!(matches!(gather.setting("l"), Some(Setting::Ints(ints)) if *ints == [5, -6]));
    assert_eq!(model.graph.initializers[0].ints(2), Some(vec![-1, 3]));
    assert_eq!(model.graph.initializers[0].ints(1), None);
    assert_eq!(gather.title(), "Gather `g`");
    let ops: Vec<_> = choice.graphs().map(|graph| graph.nodes[0].op).collect();
    assert_eq!(ops, ["Identity", "Neg"]);
}

#[test]
fn numbers_of_a_tensor_are_read_in_each_form() {
    for (ty, data) in [
        (7, bytes(7, [varint(5), varint(-2i64 as u64)].concat())),
        (7, [int(7, 5), int(7, -2)].concat()),
        (6, bytes(5, [varint(5), varint(-2i64 as u64)].concat())),
        (6, bytes(9, [5i32.to_le_bytes(), (-2i32).to_le_bytes()].concat())),
    ] {
        let tensor = [bytes(1, [2]), int(2, ty), bytes(8, "t"), data].concat();
        let file = model(&[bytes(5, tensor)]);
        let model = scan(&[&file]).expect("a model");
        assert_eq!(model.graph.initializers[0].ints(9), Some(vec![5, -2]), "{ty}");
    }
}

#[test]
fn what_is_no_onnx_file_is_said_by_what_it_is() {
    let refusal = scan(&[b"<?xml version=\"1.0\"?><net/>"]).expect_err("XML");
    assert_eq!(refusal.errno, Errno::InvalidEncoding);
    assert!(refusal.text.contains("beginning with 3c 3f 78 6d 6c"), "{refusal}");
    assert_eq!(scan(&[b""]).expect_err("nothing").errno, Errno::InvalidEncoding);
    let parts = scan(&[b"a", b"b"]).expect_err("two builders").text;
    assert_eq!(parts, "an ONNX model takes one builder, the file, not 2");
    assert!(refused(&int(1, 8)).contains("has no graph"));
    assert!(refused(&[int(1, 8), bytes(7, [])].concat()).contains("version of its operators"));
    assert!(refused(&[int(1, 8), int(1, 8)].concat()).contains("has field 1 twice"));
    let twice = [add(), bytes(7, [])].concat();
    assert!(refused(&twice).contains("has field 7 twice"), "a second graph would be merged");
}

#[test]
fn data_outside_of_the_file_is_refused_by_name() {
    let place = bytes(13, [bytes(1, "location"), bytes(2, "/etc/passwd")].concat());
    let memory = bytes(13, [bytes(1, "location"), bytes(2, "*/_ORT_MEM_ADDR_/*")].concat());
    for hidden in [place, memory, int(14, 1)] {
        let tensor = [bytes(1, [4]), int(2, 1), bytes(8, "weights"), hidden].concat();
        let said = "the ONNX model keeps the tensor `weights` outside of the file";
        let text = refused_graph(&[bytes(5, &tensor)]);
        assert!(text.starts_with(said), "{text}");
        // In a node's attribute, also in a branch.
        let constant = bytes(5, [bytes(1, "value"), bytes(5, &tensor), int(20, 4)].concat());
        let constant = node("Constant", &[], &["c"], &[constant]);
        let text = refused_graph(&[node("If", &["x"], &[], &[branch("then_branch", &[constant])])]);
        assert!(text.starts_with(said), "{text}");
    }
}

#[test]
fn operators_of_other_domains_and_functions_are_refused_by_name() {
    let custom = [bytes(2, "y"), bytes(3, "mine"), bytes(4, "Steal"), bytes(7, "com.evil")];
    assert_eq!(
        refused_graph(&[bytes(1, custom.concat())]),
        "the ONNX model has the operator Steal `mine` of the domain `com.evil`: only ONNX's own \
         operators are taken"
    );
    let own = [bytes(2, "y"), bytes(4, "RandomNormal"), bytes(7, "ai.onnx")];
    assert!(scan(&[&model(&[bytes(1, own.concat())])]).is_ok());
    let function = [add(), bytes(25, bytes(1, "f"))].concat();
    assert!(refused(&function).contains("functions of its own"));
}

#[test]
fn data_must_be_as_much_as_the_shape_says() {
    let short = tensor("w", 1, &[2, 3], &[0; 20]);
    assert_eq!(
        refused_graph(&[short]),
        "the ONNX model has the tensor `w` of the shape [2, 3] with 20 bytes of data"
    );
    for (ty, shape, data) in [
        (1, &[1 << 40][..], &[][..]),
        (1, &[1 << 62, 1 << 62], &[]),
        (1, &[0, 1 << 62, 1 << 62], &[]),
        (1, &[-1], &[0; 4]),
        (7, &[2], &[0; 8]),
        (22, &[3], &[0; 1]),
        (1, &[1; 17], &[0; 4]),
        (99, &[1], &[0]),
        (14, &[1], &[0; 8]),
    ] {
        refused_graph(&[tensor("w", ty, shape, data)]);
    }
    let good =
        [tensor("a", 22, &[3], &[0; 2]), tensor("b", 1, &[0, 7], &[]), tensor("c", 9, &[], &[1])];
    assert!(scan(&[&model(&good)]).is_ok());
    let two = [bytes(1, [1]), int(2, 1), bytes(4, [0; 4]), bytes(9, [0; 4])];
    assert!(refused_graph(&[bytes(5, two.concat())]).contains("two forms"));
    let other = [bytes(1, [1]), int(2, 1), bytes(7, [0])];
    assert!(refused_graph(&[bytes(5, other.concat())]).contains("another type"));
    let wide = [bytes(1, [1]), int(2, 6), int(5, 1 << 40)];
    assert!(refused_graph(&[bytes(5, wide.concat())]).contains("32 bits"));
}

#[test]
fn strings_are_refused() {
    let words = [bytes(1, [1]), int(2, 8), bytes(8, "words"), bytes(6, "word")];
    assert!(refused_graph(&[bytes(5, words.concat())]).contains("`words` of strings"));
    assert!(refused_graph(&[input("x", 8, &[1])]).contains("`x` of strings"));
}

#[test]
fn huge_declared_shapes_are_refused() {
    for shape in [&[1 << 62, 1 << 62][..], &[1 << 40], &[-1, 1 << 33], &[1; 17]] {
        let text = refused_graph(&[input("x", 1, shape)]);
        assert!(text.starts_with("the ONNX model's value `x` is declared with"), "{text}");
    }
    assert!(refused_graph(&[input("x", 1, &[-2])]).contains("negative"));
    assert!(scan(&[&model(&[input("x", 1, &[-1, 1 << 20])])]).is_ok());
}

#[test]
fn names_are_made_once_and_before_they_are_used() {
    let x = || input("x", 1, &[4]);
    let neg = |from: &str, to: &str| node("Neg", &[from], &[to], &[]);
    assert!(refused_graph(&[x(), neg("y", "y")]).contains("uses `y` in Neg `y` before"));
    assert!(refused_graph(&[x(), neg("z", "y"), neg("x", "z")]).contains("uses `z`"));
    assert!(refused_graph(&[x(), neg("x", "y"), neg("x", "y")]).contains("two values"));
    assert!(refused_graph(&[x(), x()]).contains("two values"));
    assert!(refused_graph(&[x(), output("q", 1, &[4])]).contains("uses `q` in its outputs"));
    let shadow = branch("then_branch", &[neg("x", "x")]);
    assert!(refused_graph(&[x(), node("If", &["x"], &["y"], &[shadow])]).contains("`x`"));
    // A default of an input, an input that is left out, and branches with the same names.
    let same = || [neg("x", "t"), output("t", 1, &[4])];
    let good = [
        x(),
        floats("x", &[4], &[0.0; 4]),
        node("Clip", &["x", "", "x"], &["c"], &[]),
        node(
            "If",
            &["x"],
            &["y"],
            &[branch("then_branch", &same()), branch("else_branch", &same())],
        ),
    ];
    assert!(scan(&[&model(&good)]).is_ok());
}

#[test]
fn attributes_have_one_value_of_their_type() {
    let attribute = |fields: &[Vec<u8>]| {
        refused_graph(&[node(
            "A",
            &[],
            &["y"],
            &[bytes(5, [bytes(1, "a"), fields.concat()].concat())],
        )])
    };
    assert!(attribute(&[int(3, 1)]).contains("without a value of its type"));
    assert!(attribute(&[int(3, 1), int(20, 7)]).contains("without a value of its type"));
    assert!(attribute(&[int(3, 1), bytes(8, [1]), int(20, 2)]).contains("two values"));
    assert!(attribute(&[int(3, 1), int(3, 2), int(20, 2)]).contains("two values"));
    assert!(attribute(&[bytes(10, []), int(20, 9)]).contains("no operator"));
    assert!(attribute(&[bytes(21, "other"), int(20, 2)]).contains("function"));
    let twice = [super::write::attribute("a", 1), super::write::attribute("a", 2)];
    assert!(refused_graph(&[node("A", &[], &["y"], &twice)]).contains("the attribute `a` twice"));
}

#[test]
fn nodes_graphs_and_parts_are_bounded() {
    let many = |nodes: usize| model(&[node("A", &[], &[], &[]).repeat(nodes)]);
    assert!(scan(&[&many(MAX_NODES)]).is_ok());
    assert!(refused(&many(MAX_NODES + 1)).contains("more than 100000 nodes"));
    let nested = |depth: usize| {
        let inner = (1..depth).fold(Vec::new(), |graph, _| {
            vec![node("If", &[], &[], &[branch("then_branch", &graph)])]
        });
        model(&inner)
    };
    assert!(scan(&[&nested(MAX_DEPTH)]).is_ok());
    assert!(refused(&nested(MAX_DEPTH + 1)).contains("nests more than 16 graphs"));
    let names = vec![bytes(1, ""); 2_000_001].concat();
    assert!(refused_graph(&[bytes(1, names)]).contains("more than 2000000 names"));
    // A sequence of sequences of …
    let ty = (0..100_000).fold(Vec::new(), |ty, _| {
        // Grows by some bytes each time: no copy of it all, or it would take for ever.
        if ty.len() > 4000 { ty } else { bytes(4, bytes(1, ty)) }
    });
    let deep = bytes(11, [bytes(1, "x"), bytes(2, ty)].concat());
    assert!(refused_graph(&[deep]).contains("nests too deeply"));
}

/// The same damage for each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

#[test]
fn thousands_of_damaged_files_are_taken_or_refused_and_none_panics() {
    let then = [node("Identity", &["x"], &["t"], &[]), output("t", 1, &[4])];
    let rich = model(&[
        input("x", 1, &[-1, 4]),
        input("c", 9, &[]),
        ints("i", &[2], &[-1, 3]),
        node("Gather", &["x", "i"], &["g"], &[attribute("axis", -1), list("l", &[5, -6])]),
        node("If", &["c"], &["y"], &[branch("then_branch", &then), branch("else_branch", &then)]),
        output("y", 1, &[4]),
    ]);
    let (mut random, mut taken) = (Random(15), 0);
    for file in [add(), rich] {
        for end in 0..file.len() {
            taken += u32::from(scan(&[&file[..end]]).is_ok());
        }
        for _ in 0..20_000 {
            let mut damaged = file.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(damaged.len());
                match random.below(4) {
                    0 => damaged[at] = random.below(256) as u8,
                    1 => damaged[at] ^= 1 << random.below(8),
                    2 => drop(damaged.remove(at)),
                    _ => damaged.insert(at, random.below(256) as u8),
                }
            }
            taken += u32::from(scan(&[&damaged]).is_ok());
        }
    }
    // Most damage to a name or a number of the weights leaves a model.
    assert!((1000..35_000).contains(&taken), "{taken}");
}

#[test]
fn millions_of_empty_fields_are_passed_over_once() {
    // A reader that went over them again for each one would not come to an end.
    let empty = bytes(20, []).repeat(1 << 20);
    let files = [
        ([add(), int(2, 1).repeat(1 << 20)].concat(), "taken"),
        (model(std::slice::from_ref(&empty)), "taken"),
        (model(&[bytes(1, &empty)]), "taken"),
        (model(&[bytes(11, &empty)]), "two values that are called ``"),
        (model(&[bytes(5, &empty)]), "unknown type 0"),
        (model(&[bytes(1, bytes(5, &empty))]), "in another form"),
    ];
    for (file, expected) in files {
        let said = scan(&[&file]).map_or_else(|refusal| refusal.text, |_| "taken".to_owned());
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn nodes_are_replaced_where_they_are_and_nothing_else_changes() {
    let then = [node("Identity", &["x"], &["t"], &[]), output("t", 1, &[4])];
    let other = [node("Neg", &["x"], &["e"], &[]), output("e", 1, &[4])];
    let with = |op: &str| {
        let other = [node(op, &["x"], &["e"], &[]), other[1].clone()];
        let branches = [branch("then_branch", &then), branch("else_branch", &other)];
        model(&[
            input("x", 1, &[4]),
            node(op, &["x"], &["a"], &[]),
            node("If", &["x"], &["y"], &branches),
            output("y", 1, &[4]),
        ])
    };
    let file = with("Neg");
    let model = scan(&[&file]).expect("a model");
    let inner = model.graph.nodes[1].graphs().nth(1).expect("the other branch");
    let places = [&model.graph.nodes[0], &inner.nodes[0]].map(|node| node.place.start);
    let replaced = [("a", places[0]), ("e", places[1])]
        .map(|(to, place)| (place, node("Absolute", &["x"], &[to], &[])));
    let rewritten = rewrite(&file, &replaced.into_iter().collect()).expect("a model");
    assert_eq!(rewritten, with("Absolute"));
    assert_eq!(rewrite(&file, &Default::default()), Ok(file));
}
