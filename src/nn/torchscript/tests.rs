use super::write::{NO_CONSTANTS, Object, archive, class, model, number, text, tiny, zip};
use super::*;

fn of(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    prove(&[bytes])
}

#[track_caller]
fn refuses(what: &str, bytes: &[u8], part: &str) {
    match of(bytes) {
        Ok(_) => panic!("taken: {what}"),
        Err(refusal) => assert!(refusal.text.contains(part), "{what}: {refusal}"),
    }
}

fn object() -> Object {
    Object::new("Model").truth("training", false).tensor("b", &[1.0, 2.0, 3.0, 4.0])
}

/// A model with this line in its method.
fn with_line(line: &str) -> Vec<u8> {
    let attributes = ["training : bool", "b : Tensor"];
    model(&class(&attributes, "x: Tensor) -> Tensor", &[line, "return x"]), &object())
}

#[test]
fn an_archive_is_written_as_it_was_proven() {
    let written = of(&tiny()).expect("proven");
    // What is proven again is the same.
    assert_eq!(of(&written).expect("proven"), written);
}

#[test]
fn what_pytorch_adds_and_libtorch_does_not_read_is_left_out() {
    let object = object();
    let (pickle, code) =
        (object.pickle(), class(&["training : bool"], "x: Tensor) -> Tensor", &["return x"]));
    let mut entries = vec![
        ("data.pkl".to_owned(), &pickle[..]),
        ("code/__torch__.py".to_owned(), code.as_bytes()),
        ("constants.pkl".to_owned(), NO_CONSTANTS),
        ("version".to_owned(), b"3\n"),
        ("byteorder".to_owned(), b"little"),
        ("data/0".to_owned(), &object.numbers[0]),
    ];
    let plain = of(&archive(&entries)).expect("proven");
    for (name, data) in [
        ("code/__torch__.py.debug_pkl", &b"no pickle"[..]),
        ("extra/labels.txt", b"cat"),
        (".data/serialization_id", b"1"),
        ("bytecode.pkl", b"for phones"),
    ] {
        entries.push((name.to_owned(), data));
    }
    assert_eq!(of(&archive(&entries)).expect("proven"), plain);
}

/// Each with what the refusal names. See also the tests of the backend for what the
/// shim refuses.
#[test]
fn calls_that_are_not_allowed_are_refused_by_name() {
    for (line, part) in [
        ("y = torch.from_file(\"/etc/passwd\", False, 100)", "`torch.from_file`"),
        ("torch.save(x, \"/tmp/x\")", "`torch.save`"),
        ("ops.aten.save(x, \"/tmp/x\")", "`ops.aten.save`"),
        ("y = ops.aten.from_file(\"/etc/passwd\")", "`ops.aten.from_file`"),
        ("y = torch.empty([1000])", "`torch.empty`"),
        ("y = torch.resize_(x, [1000])", "`torch.resize_`"),
        ("y = (x).resize_([1000])", "`resize_`"),
        ("y = x.resize_([1000])", "`x.resize_`"),
        ("y = ((x))[0].set_(x, 1000, [1], [1])", "`set_`"),
        ("y = torch.as_strided(x, [9], [1], 7)", "`torch.as_strided`"),
        ("y = torch._foreach_add([x], [x])", "`torch._foreach_add`"),
        ("y = torch.embedding_bag(x, x, x)", "`torch.embedding_bag`"),
        ("y = torch.max_unpool2d(x, x, [1])", "`torch.max_unpool2d`"),
        ("y = torch.data_ptr(x)", "`torch.data_ptr`"),
        ("y = ops.quantized.linear(x, x, 1., 0)", "`ops.quantized.linear`"),
        ("y = ops.torchvision.nms(x, x, 0.5)", "`ops.torchvision.nms`"),
        ("y = ops.prim.fork(x)", "`ops.prim.fork`"),
        ("y = fork(x)", "`fork`"),
        ("print(x)", "`print`"),
        ("y = torch.nn.functional.relu(x)", "`torch.nn.functional.relu`"),
        ("y = __torch__.torch.classes.fs.File(\"x\")", "`torch.classes`"),
        ("y : __torch__.torch.classes.fs.File = x", "`torch.classes`"),
        ("y = (torch.relu(x))(x)", "what is called has no name"),
        ("y = [torch.relu][0](x)", "what is called has no name"),
        ("y = lambda z: z", "`lambda`"),
        ("raise x", "`raise`"),
        ("import __torch__", "`import` in a method"),
        ("y = \"\"\"text\"\"\"", "text of several lines"),
        ("y = 1.e5.zfill(5)", "not written as libtorch does"),
        ("y = .5", "no digit before its point"),
        ("y = 0x10", "not written as libtorch does"),
        ("y = 1  # type: int", "no `#`"),
        ("y = \"x", "a text has no end"),
        ("y = x \\", "no `\\\\`"),
        ("y = x; torch.save(x, \"f\")", "no `;`"),
        ("y = x @ x", "no `@`"),
        ("y = (x", "is not closed"),
        ("y = x)", "closes none"),
    ] {
        refuses(line, &with_line(line), part);
    }
    let deep = format!("y = {}x{}", "(".repeat(MAX_DEPTH + 1), ")".repeat(MAX_DEPTH + 1));
    refuses("brackets", &with_line(&deep), "brackets are more than 100 deep");
    let long = format!("y = x{}", " + x".repeat(MAX_LINE));
    refuses("a line", &with_line(&long), "more than 4096 names");
    let minus = format!("y = {}x", "-".repeat(MAX_LINE + 2));
    refuses("signs", &with_line(&minus), "more than 4096 names");
    // Lists of numbers may be as long as they are.
    let numbers = format!("y = [{}]", "-1, ".repeat(MAX_LINE));
    of(&with_line(&numbers)).expect("a list of numbers");
}

#[test]
fn a_name_is_called_where_it_is_one_of_the_archives_functions() {
    let attributes = ["training : bool", "b : Tensor"];
    let made = |body: &[&str]| {
        let code = class(&attributes, "x: Tensor) -> Tensor", body);
        model(&format!("{code}def g(x: Tensor) -> Tensor:\n  return torch.relu(x)\n"), &object())
    };
    of(&made(&["_0 = __torch__.g", "y = _0(x, )", "return (_0(y, ))"])).expect("a function");
    for body in [
        &["f = torch.relu", "return f(x)"][..],
        &["f = (x).resize_", "return f([1000])"],
        &["f = __torch__.g", "f = torch.from_file", "return f(x)"],
        &["f = __torch__.g", "y, f = (x, torch.from_file)", "return f(x)"],
        &["f = __torch__.g", "for f in [torch.from_file]:", "  y = f(x)", "return x"],
        &["f = __torch__.g if b else torch.from_file", "return f(x)"],
    ] {
        refuses(&format!("{body:?}"), &made(body), "it calls `f`, which is not allowed");
    }
    // That of another method is none of this one's.
    let code = class(&attributes, "x: Tensor) -> Tensor", &["f = __torch__.g", "return f(x)"]);
    let other = "  def other(self: __torch__.Model, x: Tensor) -> Tensor:\n    return f(x)\n";
    let both = model(&format!("{code}{other}"), &object());
    refuses("another method", &both, "it calls `f`, which is not allowed");
    for line in ["int = (x).resize_", "y, len = (x, x)"] {
        refuses(line, &with_line(line), "a word of the language");
    }
}

#[test]
fn what_would_be_computed_while_code_is_read_is_refused() {
    let attributes = ["training : bool", "b : Tensor"];
    for (head, part) in [
        (
            "x: Tensor, n: int=torch.len(\"x\")) -> Tensor",
            "a default value of `forward` is computed",
        ),
        ("x: Tensor, n: int=2 ** 9) -> Tensor", "a default value of `forward` is computed"),
        (
            "x: Tensor, n: Tensor=CONSTANTS.c0.x) -> Tensor",
            "a default value of `forward` is computed",
        ),
        ("x: Tensor, n: int=y) -> Tensor", "a default value of `forward` is computed"),
        ("x: Tensor, n: List[int]=[a for a in x]) -> Tensor", "is computed"),
    ] {
        refuses(head, &model(&class(&attributes, head, &["return x"]), &object()), part);
    }
    let plain = "x: Tensor, n: int=-1, m: Optional[float]=None, t: str=\"a\", c: Tensor=CONSTANTS.c0) -> Tensor";
    of(&model(&class(&attributes, plain, &["return x"]), &object())).expect("literals");
    for (attribute, part) in [
        ("c : Final[int] = torch.seed()", "an attribute of a class is computed"),
        ("c : Final[int] = 2 ** 9", "an attribute of a class is computed"),
        ("c : __torch__.torch.classes.fs.File", "`torch.classes`"),
        ("__annotations__[f(x)] = Tensor", "not written as libtorch does"),
        // libtorch 1.13 looks for its type where there is none.
        ("c = 1", "not written as libtorch does"),
        ("__parameter__ = []", "not written as libtorch does"),
        ("__parameters__ = [\"b\" \"c\"]", "not written as libtorch does"),
        ("c", "not written as libtorch does"),
        ("c : f(int)", "not written as libtorch does"),
        ("c : Final[int] =", "not written as libtorch does"),
    ] {
        let code = class(
            &["training : bool", "b : Tensor", attribute],
            "x: Tensor) -> Tensor",
            &["return x"],
        );
        refuses(attribute, &model(&code, &object()), part);
    }
    let code = class(&attributes, "x: Tensor) -> Tensor", &["return x"]);
    for (more, part) in [
        (
            "  def __setstate__(self: __torch__.Model, s: Tensor) -> NoneType:\n    return None\n",
            "`__setstate__` would run",
        ),
        (
            "  def zfill(self: __torch__.Model) -> NoneType:\n    return None\n",
            "operator on texts, `zfill`",
        ),
        ("class Color(Enum):\n  RED = 1\n", "neither a module nor a tuple"),
        ("x = torch.ones([1])\n", "a line of the file is computed"),
        ("y\n  z = 1\n", "a line of the file is computed"),
        ("def f() -> int: return torch.seed()\n", "a method stands in one line"),
    ] {
        refuses(more, &model(&format!("{code}{more}"), &object()), part);
    }
}

#[test]
fn pickles_make_nothing_but_modules() {
    let code = class(&["training : bool", "b : Tensor"], "x: Tensor) -> Tensor", &["return x"]);
    let refused = |value: &[u8], part: &str| {
        let object = Object::new("Model").with("b", value);
        refuses(&value.escape_ascii().to_string(), &model(&code, &object), part);
    };
    refused(b"cos\nsystem\n(X\x02\0\0\0idtR", "it makes `os.system`");
    refused(b"c__torch__\nOther\n)\x81}b", "it makes `__torch__.Other`");
    refused(b"c__torch__.torch.classes.fs\nFile\n)\x81}b", "it makes");
    refused(b"ctorch.jit._pickle\nbuild_tensor_from_id\n(K\x00tR", "it makes");
    refused(b"ctorch._utils\n_rebuild_qtensor\n)R", "it makes `torch._utils._rebuild_qtensor`");
    refused(b"ctorch\nQUInt8Storage\n", "it makes `torch.QUInt8Storage`");
    // In libtorch a function is its number.
    refused(b"K\x00)R", "something is called that is not a function");
    refused(b"c__torch__\nModel\n", "made of what is only to be called");
    refused(b"c__torch__\nModel\n)\x81", "made of what is only to be called");
    refused(b"c__torch__\nModel\n)\x81q\x00}b", "remembered before it is there");
    refused(b"K\x01q\x07", "remembered out of order");
    refused(b"K\x01r\xff\xff\xff\xff", "remembered out of order");
    refused(b"h\x00", "was not remembered");
    refused(b"R", "empty stack");
    refused(b"\x87", "empty stack");
    refused(b"\x8a\x02\x01\x00", "not of 8 bytes");
    refused(b"X\xff\xff\xff\xff", "it ends too early");
    refused(b"X\x01\0\0\0\xff", "not UTF-8");
    refused(b"0", "not one that libtorch writes");
    refused(b"]K\x01u", "pairs");
    refused(b"}K\x01a", "not a new list");
    refused(b"ctorch\ndevice\n(X\x04\0\0\0cudatR", "not the processor");
    let ints = b"ctorch.jit._pickle\nbuild_intlist\n(](\x88etR";
    refused(ints, "a list of int has something else in it");
    let deep = [&b"]".repeat(70)[..], &b"a".repeat(69)].concat();
    refused(&deep, "deep in each other");
    let pickle = |pickle: &[u8], part: &str| {
        let entries = [
            ("data.pkl".to_owned(), pickle),
            ("code/__torch__.py".to_owned(), code.as_bytes()),
            ("constants.pkl".to_owned(), NO_CONSTANTS),
            ("version".to_owned(), &b"3"[..]),
        ];
        refuses(&pickle.escape_ascii().to_string(), &archive(&entries), part);
    };
    let constants = |constants: &[u8]| {
        let entries = [
            ("data.pkl".to_owned(), &object().pickle()[..]),
            ("code/__torch__.py".to_owned(), code.as_bytes()),
            ("constants.pkl".to_owned(), constants),
            ("version".to_owned(), &b"3"[..]),
            ("data/0".to_owned(), &object().numbers[0][..]),
        ];
        refuses(&constants.escape_ascii().to_string(), &archive(&entries), "tuple of tensors");
    };
    // An object there would be of no type that is declared.
    constants(b"\x80\x02c__torch__\nModel\n)\x81}b\x85.");
    constants(b"\x80\x02K\x01\x85.");
    constants(b"\x80\x02].");
    pickle(b"\x80\x04).", "protocol 2");
    pickle(b"\x80\x02).", "it is not an object");
    pickle(b"\x80\x02))).", "left at its end");
    pickle(b"\x80\x02).)", "left at its end");
    pickle(b"", "it ends too early");
}

#[test]
fn tensors_lie_within_their_numbers() {
    let attributes = ["training : bool", "b : Tensor"];
    let code = class(&attributes, "x: Tensor) -> Tensor", &["return x"]);
    type Form<'a> = (i32, &'a [i32], &'a [i32]);
    let made = |storage: &str, count: i32, form: Form<'_>, bytes: usize, fill: u8| {
        let object = Object::new("Model").truth("training", false);
        model(&code, &object.tensor_of("b", storage, count, form, vec![fill; bytes]))
    };
    for (form, bytes) in [
        ((0, &[2, 2][..], &[2, 1][..]), 16),
        ((3, &[1], &[1]), 16),
        ((0, &[4, 1000], &[1, 0]), 16),
        ((4, &[0], &[1]), 16),
        ((0, &[], &[]), 16),
    ] {
        of(&made("FloatStorage", 4, form, bytes, 0)).expect("within");
    }
    let outside = "a tensor lies outside of its numbers";
    for (count, form, bytes, part) in [
        (4, (1, &[4][..], &[1][..]), 16, outside),
        (4, (-1, &[1], &[1]), 16, outside),
        (4, (0, &[2], &[-1]), 16, outside),
        (4, (0, &[-2], &[1]), 16, outside),
        (4, (0, &[2, 2], &[3, 1]), 16, outside),
        (4, (5, &[0], &[1]), 16, outside),
        (4, (0, &[i32::MAX, i32::MAX, i32::MAX], &[i32::MAX, i32::MAX, 0]), 16, outside),
        (4, (0, &[0, i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0, 0]), 16, outside),
        (4, (0, &[4], &[1, 1]), 16, "do not fit each other"),
        (4, (0, &[4], &[1]), 12, "has 12 bytes, and should hold 4 of 4"),
        (-4, (0, &[4], &[1]), 16, "not made as libtorch writes it"),
    ] {
        refuses(&format!("{form:?}"), &made("FloatStorage", count, form, bytes, 0), part);
    }
    of(&made("BoolStorage", 4, (0, &[4], &[1]), 4, 1)).expect("truth values");
    refuses("twos", &made("BoolStorage", 4, (0, &[4], &[1]), 4, 2), "holds no truth values");
    let without = Object::new("Model").truth("training", false).tensor("b", &[1.0]);
    let pickle = without.pickle();
    let entries = [
        ("data.pkl".to_owned(), &pickle[..]),
        ("code/__torch__.py".to_owned(), code.as_bytes()),
        ("constants.pkl".to_owned(), NO_CONSTANTS),
        ("version".to_owned(), &b"3"[..]),
    ];
    refuses("no numbers", &archive(&entries), "there is no entry of numbers `0`");
}

#[test]
fn archives_are_bounded_and_whole() {
    let good = object();
    let (pickle, code) =
        (good.pickle(), class(&["training : bool"], "x: Tensor) -> Tensor", &["return x"]));
    let entries = |more: &[(&str, &[u8])]| {
        let mut entries = vec![
            ("model/data.pkl".to_owned(), &pickle[..]),
            ("model/code/__torch__.py".to_owned(), code.as_bytes()),
            ("model/constants.pkl".to_owned(), NO_CONSTANTS),
            ("model/version".to_owned(), &b"3"[..]),
            ("model/data/0".to_owned(), &good.numbers[0][..]),
        ];
        for &(name, data) in more {
            entries.retain(|(there, _)| {
                there != name || more.iter().filter(|m| m.0 == name).count() > 1
            });
            entries.push((name.to_owned(), data));
        }
        zip(&entries)
    };
    of(&entries(&[])).expect("proven");
    for (more, part) in [
        (&[("model/data/0", &b"1"[..]), ("model/data/0", b"2")][..], "there are two entries"),
        (&[("other/data/1", b"")], "is in another folder"),
        (&[("data.pkl", b"")], "is in no folder"),
        (&[("model/model.json", b"{}")], "`model.json` is not an entry"),
        (&[("model/tensors/0", b"")], "`tensors/0` is not an entry"),
        (&[("model/data/a/b", b"")], "`data/a/b` is not an entry"),
        (&[("model/code/a.py", b"")], "is not a code file"),
        (&[("model/code/__torch__/a-b.py", b"")], "is not a code file"),
        (&[("model/code/__torch__/torch/classes/a.py", b"")], "a class of libtorch's own"),
        (&[("model/version", b"three")], "its version is not a number"),
        (&[("model/byteorder", b"big")], "not in the order of this machine"),
        (&[("model/code/__torch__.py", b"\xff")], "line 1 of"),
    ] {
        refuses(&format!("{more:?}"), &entries(more), part);
    }
    let without: Vec<_> = [("model/data.pkl".to_owned(), &pickle[..])].to_vec();
    refuses("one entry", &zip(&without), "no entry `version`");
    refuses("nothing", b"", "not a TorchScript archive (0 bytes");
    refuses("a pointer", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer");
    refuses("another file", b"PTMF0000", "(8 bytes, beginning with \"PTMF0000\")");
    let two = prove(&[b"a", b"b"]).expect_err("one builder");
    assert_eq!(two.text, "a TorchScript model is 1 builder, not 2");
    // A changed number of a tensor no longer has the sum that the archive says.
    let mut changed = tiny();
    let at = changed.windows(4).position(|bytes| bytes == 4_f32.to_le_bytes()).expect("a number");
    changed[at] ^= 1;
    refuses("a changed number", &changed, "is damaged");
    let many: Vec<_> = (0..=MAX_ENTRIES).map(|n| (format!("model/extra/{n}"), &b""[..])).collect();
    refuses("many entries", &zip(&many), "more than 65536 entries");
    // A name of something that is not there, of a size that is not.
    let claimed = {
        let mut bytes = entries(&[]);
        let end = bytes.len() - 22;
        let directory =
            u32::from_le_bytes(bytes[end + 16..end + 20].try_into().expect("four")) as usize;
        for at in [directory + 20, directory + 24] {
            bytes[at..at + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
        }
        bytes
    };
    assert!(of(&claimed).is_err());
}

/// Values of an archive, each of which is changed here and there: all of it ends in
/// an answer.
#[test]
fn damaged_archives_end_in_an_answer() {
    let mut random = fastrand::Rng::with_seed(20_261_130);
    let (whole, object) = (tiny(), object());
    let code = class(
        &["training : bool", "b : Tensor"],
        "x: Tensor) -> Tensor",
        &["return torch.relu(x)"],
    );
    let damage = |bytes: &mut Vec<u8>, random: &mut fastrand::Rng| {
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] ^= 1 << random.u8(..8),
                1 => bytes[at] = random.u8(..),
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let byte = random.u8(..);
                    bytes.insert(at, byte);
                }
            }
        }
    };
    let (mut taken, mut refused) = (0, 0);
    for round in 0..4000 {
        let archive = match round % 3 {
            0 => {
                let mut bytes = whole.clone();
                damage(&mut bytes, &mut random);
                bytes
            }
            1 => {
                let mut pickle = object.pickle();
                damage(&mut pickle, &mut random);
                archive(&[
                    ("data.pkl".to_owned(), &pickle),
                    ("code/__torch__.py".to_owned(), code.as_bytes()),
                    ("constants.pkl".to_owned(), NO_CONSTANTS),
                    ("version".to_owned(), b"3"),
                    ("data/0".to_owned(), &object.numbers[0]),
                ])
            }
            _ => {
                let mut code = code.clone().into_bytes();
                damage(&mut code, &mut random);
                archive(&[
                    ("data.pkl".to_owned(), &object.pickle()),
                    ("code/__torch__.py".to_owned(), &code),
                    ("constants.pkl".to_owned(), NO_CONSTANTS),
                    ("version".to_owned(), b"3"),
                    ("data/0".to_owned(), &object.numbers[0]),
                ])
            }
        };
        match of(&archive) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 0 && refused > 1000, "{taken} taken, {refused} refused");
}

#[test]
fn instructions_of_texts_and_numbers_are_those_of_pickles() {
    let object = Object::new("Model").truth("training", false).tensor("b", &[1.0]);
    let object = object.with("t", &text("a text")).with("n", &number(7)).number("m", 1);
    let code = class(&["training : bool"], "x: Tensor) -> Tensor", &["return x"]);
    of(&model(&code, &object.empty("o", "Model"))).expect("proven");
}

/// SECURITY.md, what an archive may not have: each row has its tests.
#[test]
fn what_is_promised_of_archives_has_its_tests() {
    let tests = [
        include_str!("tests.rs"),
        include_str!("../backends/torch/tests/refused.rs"),
        include_str!("../backends/torch/tests/resize.rs"),
    ];
    let table = include_str!("../../../SECURITY.md");
    let rows = table.lines().skip_while(|line| !line.starts_with("| what an archive may not have"));
    let rows: Vec<_> = rows.skip(2).take_while(|line| line.starts_with('|')).collect();
    let mut before = Vec::new();
    for row in rows {
        let cell = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        if !names.is_empty() {
            before = names;
        } else {
            assert_eq!(cell.trim(), "the same", "{row}");
        }
        for name in &before {
            let named = |source: &&str| source.contains(&format!("fn {name}()"));
            assert!(tests.iter().any(named), "{name} is no test");
        }
        assert!(!before.is_empty(), "{row}");
    }
    assert!(!before.is_empty(), "the table is there");
}
