//! `upsample_…`, each kind of which a scripted `torch.nn.functional.interpolate` comes to.

use super::*;

/// What `torch.nn.functional.interpolate` does for one number for all sides, in the operators and
/// forms in which `torch.jit.script` of 1.13 writes it.
const INTERPOLATE: &str = include_str!("interpolate.py");

/// What it makes of 0, 1, 2 and 3 in this shape, with these arguments.
fn interpolate(shape: &str, arguments: &str) -> Vec<u8> {
    let body = [
        format!("y = torch.reshape(x, {shape})"),
        format!("z = __torch__.interpolate(y, {arguments}, )"),
        "return torch.reshape(z, [-1])".to_owned(),
    ];
    let body = body.each_ref().map(String::as_str);
    let code = class(&["training : bool"], "x: Tensor) -> Tensor", &body);
    let code = format!("{code}{INTERPOLATE}");
    model(&code, &Object::new("Model").truth("training", false))
}

const INPUT: [f32; 4] = [0.0, 1.0, 2.0, 3.0];

/// As PyTorch 1.13 answers.
#[test]
fn a_scripted_interpolate_runs_in_each_of_its_modes() {
    let nn = nn();
    let plane =
        [0.0, 0.25, 0.75, 1.0, 0.5, 0.75, 1.25, 1.5, 1.5, 1.75, 2.25, 2.5, 2.0, 2.25, 2.75, 3.0];
    let space = [plane, plane].concat();
    let nearest = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 2.0, 2.0, 3.0];
    let exact = [0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 2.0, 3.0, 3.0];
    let line = [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0];
    let cubic = [
        0.0, 0.31481, 0.68519, 1.0, 0.62963, 0.94444, 1.31481, 1.62963, 1.37037, 1.68518, 2.05556,
        2.37037, 2.0, 2.31481, 2.68519, 3.0,
    ];
    let cases: [(&str, &str, &[f32]); 10] = [
        ("[1, 1, 2, 2]", "None, 2., \"bilinear\", False, None, False", &plane),
        ("[1, 1, 2, 2]", "None, 2., \"bicubic\", True, None, False", &cubic),
        ("[1, 1, 2, 2]", "3, None, \"nearest\", None, None, False", &nearest),
        ("[1, 1, 2, 2]", "3, None, \"nearest-exact\", None, None, False", &exact),
        ("[1, 1, 2, 2]", "1, None, \"area\", None, None, False", &[1.5]),
        ("[1, 1, 4]", "None, 2., \"linear\", False, None, False", &line),
        ("[1, 1, 1, 2, 2]", "None, 2., \"trilinear\", False, None, False", &space),
        ("[1, 1, 1, 2, 2]", "2, None, \"nearest\", None, None, False", &[INPUT, INPUT].concat()),
        ("[1, 1, 2, 2]", "None, 0.5, \"bilinear\", False, None, True", &[1.5]),
        ("[1, 1, 2, 2]", "None, 1.5, \"nearest\", None, True, False", &nearest),
    ];
    for (shape, arguments, expected) in cases {
        let found = ready(&nn, &interpolate(shape, arguments)).run(&[&INPUT]);
        let near = |(found, expected): (&f32, &f32)| (found - expected).abs() < 1e-4;
        let same = found.len() == expected.len() && found.iter().zip(expected).all(near);
        assert!(same, "{arguments}: {found:?}");
    }
}

/// libtorch 1.13 does: of the size 200 and the factor 1 most numbers are those of others.
#[test]
fn what_would_read_beside_its_tensor_is_not_resized() {
    const BOTH: &str = "a size and factors, which need not fit each other";
    const FAR: &str = "factors that are not between 0.001 and 1000";
    let nn = nn();
    let refuses = |archive: &[u8], length: u32, expected: &str| {
        let mut ready = ready(&nn, archive);
        let set = ready.task.set_input(
            ready.context,
            0,
            F32,
            &[length],
            &floats(&vec![1.0; length as usize]),
        );
        set.expect("it fits");
        let refused = refusal(ready.task.compute(ready.context));
        assert!(refused.text.contains(expected), "{refused}");
    };
    let script = |shape: &str, call: &str| {
        let reshaped = format!("y = torch.reshape(x, {shape})");
        unary(&[&reshaped, "f = torch.div(2., 4.)", &format!("return {call}")])
    };
    for (shape, call) in [
        ("[1, 1, 4]", "torch.upsample_linear1d(y, [200], False, 1.)"),
        ("[1, 1, 4]", "torch.upsample_linear1d(y, [200], False, f)"),
        ("[1, 1, 2, 2]", "torch.upsample_bilinear2d(y, [40, 5], False, 0.5, None)"),
        ("[1, 1, 1, 2, 2]", "torch.upsample_trilinear3d(y, [2, 16, 40], False, None, None, 2.)"),
        ("[1, 1, 2, 2]", "torch._upsample_bilinear2d_aa(y, [16, 1], False, 0.001, 1.)"),
        ("[1, 1, 2, 2]", "torch.upsample_nearest2d(y, [4, 4], f, f)"),
    ] {
        refuses(&script(shape, call), 4, BOTH);
    }
    for factor in ["0.0001", "1e-30", "2000.", "-1."] {
        let arguments = format!("None, {factor}, \"bilinear\", False, None, False");
        refuses(&interpolate("[1, 1, 2, 2]", &arguments), 4, FAR);
    }
    let long = script("[1, 1, -1]", "torch.upsample_linear1d(y, None, False, [0.5])");
    refuses(&long, (1 << 21) + 1, "a side of more than 2097152");
    let sized = script("[1, 1, 4]", "torch.upsample_linear1d(y, [2], True)");
    assert_eq!(ready(&nn, &sized).run(&[&INPUT]), [0.0, 3.0]);
}
