//! What a model may not have or do, as far as only libtorch can tell.

use super::*;
use crate::nn::torchscript::write::{model_with_constant, text};

/// What only libtorch can tell. What can be told without it is in the tests of
/// `nn/torchscript`.
#[test]
fn what_passes_by_its_names_is_refused_by_what_it_comes_to() {
    let nn = nn();
    let taken = |archive: &[u8]| refusal(task(&nn).load(PYTORCH, 0, &[archive]));
    // A method of the archive's own with the name of an operator.
    let smuggled = |name: &str, call: &str| {
        let code = class(&["training : bool"], "x: Tensor) -> Tensor", &[call]);
        let own =
            format!("{code}  def {name}(self: __torch__.Model) -> NoneType:\n    return None\n");
        model(&own, &Object::new("Model").truth("training", false))
    };
    for (archive, part) in [
        (
            smuggled("resize_", "return (x).resize_([1000])"),
            "the operator `aten::resize_` is not allowed",
        ),
        (
            smuggled("as_strided", "return (x).as_strided([9], [1], 7)"),
            "`aten::as_strided` is not allowed",
        ),
        (smuggled("set_", "return (x).set_(x)"), "`aten::set_` is not allowed"),
        (
            unary(&["return torch.add(x, x, alpha=1, out=x)"]),
            "writes into a tensor that it is given",
        ),
        (
            unary(&["return torch.upsample_nearest2d(x, [4, 4], 1e-30, 1e-30)"]),
            "factors that are not between 0.001 and 1000",
        ),
    ] {
        let refused = taken(&archive);
        assert!(refused.text.contains(part), "{refused}");
        assert_eq!(refused.errno, Errno::UnsupportedOperation, "{refused}");
    }
    // What contexts share.
    let with_constant = |body: &[&str]| {
        let code = class(&["training : bool"], "x: Tensor) -> Tensor", body);
        let object = Object::new("Model").truth("training", false);
        model_with_constant(&code, &object, &[1.0, 2.0])
    };
    let reads = with_constant(&["return torch.add(CONSTANTS.c0, x, alpha=1)"]);
    assert_eq!(ready(&nn, &reads).run(&[&[1.0]]), [2.0, 3.0]);
    let refused = taken(&with_constant(&["return torch.add_(CONSTANTS.c0, x, alpha=1)"]));
    assert!(refused.text.contains("`forward` writes to a constant"), "{refused}");
    // Functions that each call the one before twice.
    let mut code =
        class(&["training : bool"], "x: Tensor) -> Tensor", &["return __torch__.f40(x, )"]);
    code.push_str("def f0(x: Tensor) -> Tensor:\n  return torch.relu(x)\n");
    for n in 1..=40 {
        let before = n - 1;
        code.push_str(&format!(
            "def f{n}(x: Tensor) -> Tensor:\n  return __torch__.f{before}(__torch__.f{before}(x, ), )\n"
        ));
    }
    let refused = taken(&model(&code, &Object::new("Model").truth("training", false)));
    assert!(refused.text.contains("come to more than 1000000 operations"), "{refused}");
    let none = class(&["training : bool"], "x: Tensor) -> Tensor", &["return x"]);
    let none = none.replace("def forward", "def backward");
    let refused = taken(&model(&none, &Object::new("Model").truth("training", false)));
    assert!(refused.text.contains("no method `forward`"), "{refused}");
}

#[test]
fn an_attribute_is_of_the_type_that_its_class_declares() {
    let nn = nn();
    let parts = "class Small(Module):\n  training : bool\nclass Large(Module):\n  training : bool\n  \
                 a : int\n  b : int\n  c : int\n";
    let attributes = ["training : bool", "part : __torch__.Large", "b : Tensor"];
    let body = ["part = self.part", "c = part.c", "return torch.add(x, c, alpha=1)"];
    let code = format!("{parts}{}", class(&attributes, "x: Tensor) -> Tensor", &body));
    let begun = || Object::new("Model").truth("training", false);
    let part = |class: &str, more: &str| {
        let mut part = format!("c__torch__\n{class}\n)").into_bytes();
        part.extend(*b"\x81}(");
        part.extend(text("training"));
        part.push(0x89);
        for name in more.split_whitespace() {
            part.extend(text(name));
            part.extend(*b"K\x05");
        }
        part.extend(*b"ub");
        part
    };
    let (small, large) = (part("Small", ""), part("Large", "a b c"));
    let whole = begun().with("part", &large).tensor("b", &[1.0]);
    assert_eq!(ready(&nn, &model(&code, &whole)).run(&[&[1.0]]), [6.0]);
    for (object, name) in [
        (begun().with("part", &small).tensor("b", &[1.0]), "`part`"),
        (begun().with("part", &large).number("b", 7), "`b`"),
        (begun().with("part", &large).with("b", b"]"), "`b`"),
        (
            Object::new("Model").number("training", 1).with("part", &large).tensor("b", &[1.0]),
            "`training`",
        ),
    ] {
        let refused = refusal(task(&nn).load(PYTORCH, 0, &[&model(&code, &object)]));
        assert!(refused.text.contains(&format!("the attribute {name} is not")), "{refused}");
    }
    // This one libtorch itself notices.
    let number = model(&code, &begun().number("part", 7).tensor("b", &[1.0]));
    let refused = refusal(task(&nn).load(PYTORCH, 0, &[&number]));
    assert!(refused.text.contains("Expected Object but got Int"), "{refused}");
    // An object that code takes for one of a class with more attributes.
    let code = format!(
        "{parts}{}",
        class(
            &["training : bool", "part : __torch__.Small"],
            "x: Tensor) -> Tensor",
            &[
                "part = self.part",
                "large = unchecked_cast(__torch__.Large, part)",
                "c = large.c",
                "return torch.add(x, c, alpha=1)",
            ]
        )
    );
    let refused =
        refusal(task(&nn).load(PYTORCH, 0, &[&model(&code, &begun().with("part", &small))]));
    assert!(refused.text.contains("an object is taken for one of another class"), "{refused}");
}

/// libtorch's own checks of these go round.
#[test]
fn numbers_that_are_out_of_all_proportion_are_refused() {
    let nn = nn();
    for (call, what) in [
        ("torch.reflection_pad1d(y, [n, n])", "`padding` of `aten::reflection_pad1d`"),
        ("torch.pad(y, [n, 9223372036854775807], \"replicate\")", "`pad` of `aten::pad`"),
        ("torch.slice(y, 1, 0, 2, 9223372036854775807)", "`step` of `aten::slice`"),
    ] {
        let body = ["y = torch.unsqueeze(x, 0)", "n = torch.sub(-9223372036854775807, 1)"];
        let mut ready = ready(&nn, &unary(&[body[0], body[1], &format!("return {call}")]));
        let shape = [4];
        let set = ready.task.set_input(ready.context, 0, F32, &shape, &floats(&[1.0; 4]));
        set.expect("it fits");
        let refused = refusal(ready.task.compute(ready.context));
        assert!(refused.text.contains(&format!("{what} is beyond 2147483648")), "{refused}");
    }
    // As `x[1:]` is written.
    let all = unary(&["return torch.slice(x, 0, 1, 9223372036854775807)"]);
    assert_eq!(ready(&nn, &all).run(&[&[1.0, 2.0, 3.0]]), [2.0, 3.0]);
}

#[test]
fn tensors_of_a_model_are_bounded() {
    let nn = nn();
    let large = unary(&["return torch.ones([100000, 100000])"]);
    let mut ready = ready(&nn, &large);
    ready.task.set_input(ready.context, 0, F32, &[1], &floats(&[0.0])).expect("it fits");
    let refused = refusal(ready.task.compute(ready.context));
    assert_eq!(refused.errno, Errno::TooLarge);
    assert!(refused.text.contains("more than 67108864 bytes"), "{refused}");
    // What an inference has used is free again.
    let fits = unary(&["y = torch.ones([2000000])", "return torch.sum(torch.add(y, x, alpha=1))"]);
    let mut ready = self::ready(&nn, &fits);
    for _ in 0..20 {
        assert_eq!(ready.run(&[&[1.0]]), [4_000_000.0]);
    }
}

/// Archives that are changed here and there: each one is refused, fails or computes.
#[test]
fn damaged_archives_end_in_an_answer_of_libtorch_too() {
    let nn = nn();
    let mut random = fastrand::Rng::with_seed(20_261_130);
    let attributes = ["training : bool", "b : Tensor", "n : int"];
    let body = [
        "b = self.b",
        "n = self.n",
        "y = torch.relu(torch.add(x, b, alpha=1))",
        "z = torch.reshape(y, [n, -1])",
        "if torch.gt(torch.len(torch.size(z)), 1):",
        "  w = torch.sum(z, [0], False)",
        "else:",
        "  w = torch.index_select(z, 0, torch.to(y, 4))",
        "return w",
    ];
    let code = class(&attributes, "x: Tensor) -> Tensor", &body);
    let object = Object::new("Model").truth("training", false);
    let object = object.tensor("b", &[1.0, 2.0, 3.0, 4.0]).number("n", 2);
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..600 {
        let mut code = code.clone().into_bytes();
        for _ in 0..random.usize(1..3) {
            let at = random.usize(..code.len());
            match random.u8(..3) {
                0 => code[at] = random.choice(b"0123456789()[],.:xyzbnw ").copied().unwrap_or(b' '),
                1 => drop(code.remove(at)),
                _ => {
                    let (from, length) = (random.usize(..code.len()), random.usize(1..12));
                    let piece = code[from..code.len().min(from + length)].to_vec();
                    code.splice(at..at, piece);
                }
            }
        }
        let Ok(code) = String::from_utf8(code) else { continue };
        let mut task = task(&nn);
        let Ok(graph) = task.load(PYTORCH, 0, &[&model(&code, &object)]) else {
            refused += 1;
            continue;
        };
        loaded += 1;
        let Ok(context) = task.init_execution_context(graph) else { continue };
        let set = task.set_input(context, 0, F32, &[4], &floats(&[1.0, -5.0, 3.0, 0.0]));
        if set.is_ok() && task.compute(context).is_ok() {
            task.get_output(context, 0, &mut [0; 1 << 12]).ok();
        }
    }
    assert!(loaded > 20 && refused > 100, "{loaded} loaded, {refused} refused");
}
