use proptest::prelude::*;

use super::write::{Step, Value, floats, ints, model, step, value};
use super::*;

/// Numbers of operators in the schema.
const ADD: i32 = 0;
const RESHAPE: i32 = 22;
const CUSTOM: i32 = 32;
const GATHER: i32 = 36;

/// `y = x + [1, 2, 3, 4]`.
fn add() -> (Vec<Value>, Vec<Step>) {
    let numbers = [1.0, 2.0, 3.0, 4.0];
    let values = vec![value("x", &[1, 4]), floats("b", &[4], &numbers), value("y", &[1, 4])];
    (values, vec![step(ADD, &[0, 1], &[2])])
}

fn refused(values: &[Value], steps: &[Step]) -> String {
    scan(&[&model(values, steps, &[0], &[2])]).expect_err("refused").text
}

#[test]
fn a_model_is_read() {
    let (mut values, mut steps) = add();
    values[0].signature = Some(vec![-1, 4]);
    steps[0].options = Some((11, vec![None, Some(1)]));
    let file = model(&values, &steps, &[0], &[2]);
    let read = scan(&[&file]).expect("a model");
    assert_eq!((read.inputs, read.outputs), (vec![0], vec![2]));
    assert_eq!(read.tensors[0].shape, [None, Some(4)]);
    assert_eq!(read.tensors[1].data.map(<[u8]>::len), Some(16));
    let [only] = &read.operators[..] else { panic!("{:?}", read.operators) };
    assert_eq!((only.op, &only.inputs[..]), ("ADD", &[Some(0), Some(1)][..]));
}

#[test]
fn another_file_is_another_encoding() {
    let refusal = scan(&[b"\x08\x07\x12\nonnx-wally"]).expect_err("ONNX");
    assert_eq!(refusal.errno, Errno::InvalidEncoding);
    assert!(refusal.text.contains("(14 bytes, beginning with 08 07 12 0a"), "{refusal}");
    assert!(scan(&[]).expect_err("none").text.ends_with("not 0"));
}

#[test]
fn constants_have_as_many_bytes_as_their_shape_says() {
    for shape in [&[5][..], &[3], &[2, 1 << 30], &[i32::MAX; 4], &[i32::MAX; 16]] {
        let (mut values, steps) = add();
        values[1].shape = shape.to_vec();
        assert!(refused(&values, &steps).contains("has 16 bytes for the tensor `b`"), "{shape:?}");
    }
    let (mut values, steps) = add();
    values[1].signature = Some(vec![-1]);
    assert!(refused(&values, &steps).contains("16 bytes"));
    let (mut values, steps) = add();
    values[0].shape = vec![1, -4];
    assert!(refused(&values, &steps).contains("a negative size in the tensor `x`"));
    values[0].shape = vec![1; 17];
    assert!(refused(&values, &steps).contains("more than 16 dimensions"));
    values[0].shape = vec![i32::MAX; 3];
    assert!(refused(&values, &steps).contains("of a size that can't be"));
}

#[test]
fn each_value_is_made_once_and_before_it_is_used() {
    let (mut values, steps) = add();
    values[1].data = None;
    assert!(refused(&values, &steps).contains("uses the tensor `b` before it is made"));
    let (mut values, steps) = add();
    values[1].name = "x";
    assert!(refused(&values, &steps).contains("another of the name of the tensor `x`"));
    let (values, _) = add();
    let twice = [step(ADD, &[0, 1], &[2]), step(ADD, &[0, 1], &[2])];
    assert!(refused(&values, &twice).contains("makes the tensor `y` twice"));
    let constant = [step(ADD, &[0, 1], &[1]), step(ADD, &[0, 1], &[2])];
    assert!(refused(&values, &constant).contains("has data for the tensor `b`"));
    let file = model(&values, &[step(ADD, &[0, 1], &[2])], &[0], &[2, 2]);
    assert!(scan(&[&file]).expect_err("twice").text.contains("or twice"));
}

#[test]
fn what_selects_something_selects_what_is_there() {
    let (values, _) = add();
    for wrong in [step(ADD, &[0, 3], &[2]), step(ADD, &[0, -2], &[2]), step(ADD, &[0, 1], &[-1])] {
        assert!(refused(&values, &[wrong]).contains("has no tensor "));
    }
    for code in [-1, 209, i32::MAX] {
        assert!(
            refused(&values, &[step(code, &[0, 1], &[2])]).contains("the unknown operator"),
            "{code}"
        );
    }
}

#[test]
fn what_is_not_the_formats_own_is_refused_by_name() {
    let (values, _) = add();
    let custom = Step { custom: Some("GATHER"), ..step(CUSTOM, &[0, 1], &[2]) };
    assert!(refused(&values, &[custom]).contains("has the operator `GATHER` of its own"));
    for ty in [5, 8, 11, 13, 14, 18] {
        let (mut values, steps) = add();
        values[0].ty = ty;
        assert!(refused(&values, &steps).contains(&format!("of the type {ty}")), "{ty}");
    }
}

#[test]
fn scales_fit_the_shape_that_they_are_of() {
    let scaled = |scales: usize, zeros: usize, axis| {
        let (mut values, steps) = add();
        values[1] = Value { ty: 9, data: Some(vec![1; 4]), ..value("b", &[4]) };
        values[1].scales = Some((vec![0.5; scales], vec![0; zeros], axis));
        scan(&[&model(&values, &steps, &[0], &[2])]).map(drop).map_err(|refusal| refusal.text)
    };
    for (scales, zeros, axis) in [(1, 1, 0), (4, 4, 0), (1, 0, 7), (0, 0, 7)] {
        assert_eq!(scaled(scales, zeros, axis), Ok(()), "{scales} {zeros} {axis}");
    }
    for (scales, zeros, axis) in [(4, 4, 1), (4, 4, -1), (3, 3, 0), (0, 1, 0), (4, 3, 0)] {
        let text = scaled(scales, zeros, axis).expect_err("refused");
        assert!(text.contains("do not fit its shape"), "{text}");
    }
}

#[test]
fn what_gather_selects_along_is_read() {
    let values = [value("x", &[4, 2]), ints("i", &[1], &[3]), value("y", &[1, 2])];
    let gather = Step { options: Some((23, vec![Some(1), None])), ..step(GATHER, &[0, 1], &[2]) };
    let file = model(&values, &[gather], &[0], &[2]);
    let read = scan(&[&file]).expect("a model");
    assert_eq!(read.operators[0].gather, Some((1, 0)));
    assert_eq!(read.tensors[1].ints(1), Some(vec![3]));
    assert_eq!(read.tensors[1].ints(0), None);
}

/// A file may say the same thing with few bytes many times.
#[test]
fn what_is_used_again_and_again_is_bounded() {
    let (values, steps) = add();
    let file = model(&values, &steps, &[0], &[2]);
    let list = file.windows(8).position(|w| w == [2, 0, 0, 0, 0, 0, 0, 0]).expect("the inputs");
    let mut long = file.clone();
    long[list..list + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let text = scan(&[&long]).expect_err("refused").text;
    assert!(text.contains("longer than the file"), "{text}");
}

#[test]
fn no_cut_file_is_taken() {
    let (values, mut steps) = add();
    steps[0].options = Some((RESHAPE as u8, vec![None]));
    let file = model(&values, &steps, &[0], &[2]);
    assert!(scan(&[&file]).is_ok());
    for length in 0..file.len() - 16 {
        assert!(scan(&[&file[..length]]).is_err(), "{length} of {} bytes", file.len());
    }
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(scan(&[&[&b"\x10\0\0\0TFL3"[..], &bytes].concat()]));
    }

    #[test]
    fn any_change_comes_to_an_end(at in 8usize..400, byte in any::<u8>()) {
        let (values, steps) = add();
        let mut file = model(&values, &steps, &[0], &[2]);
        let at = at % file.len();
        file[at] = byte;
        drop(scan(&[&file]));
    }
}
