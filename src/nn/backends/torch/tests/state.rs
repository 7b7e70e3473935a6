//! What a model keeps from one inference to the next.

use super::*;
use crate::nn::torchscript::write::text;

/// Counts its inferences, and adds up its inputs.
fn counter() -> Vec<u8> {
    let body = [
        "n = self.n",
        "self.n = torch.add(n, 1)",
        "sum = self.sum",
        "_0 = torch.add_(sum, x, alpha=1)",
        "n0 = self.n",
        "return torch.add(_0, n0, alpha=100)",
    ];
    let code =
        class(&["training : bool", "n : int", "sum : Tensor"], "x: Tensor) -> Tensor", &body);
    let object = Object::new("Model").truth("training", false).number("n", 0);
    model(&code, &object.tensor("sum", &[0.0]))
}

#[test]
fn a_models_state_is_its_contexts_own() {
    let nn = nn();
    let (mut first, mut second) = (ready(&nn, &counter()), ready(&nn, &counter()));
    assert_eq!(first.run(&[&[1.0]]), [101.0]);
    assert_eq!(first.run(&[&[2.0]]), [203.0]);
    assert_eq!(second.run(&[&[5.0]]), [105.0]);
    assert_eq!(first.run(&[&[3.0]]), [306.0]);
    // What was given stays as it is when its context goes on.
    let kept = first.task.execution(first.context).expect("there").take_output(0).expect("one").1;
    first.run(&[&[4.0]]);
    assert_eq!(numbers((*kept).as_ref()), [306.0]);
    drop(first);
    assert_eq!(numbers((*kept).as_ref()), [306.0]);
    // In the same task, too, and after the others have ended.
    let graph = second.task.load(PYTORCH, 0, &[&counter()]).expect("loaded");
    second.context = second.task.init_execution_context(graph).expect("a context");
    assert_eq!(second.run(&[&[7.0]]), [107.0]);
    assert_eq!(second.task.report().graphs_reused, 2);
}

/// Whatever way leads to it: what a task leaves behind, no other one finds.
#[test]
fn a_state_that_is_not_in_sight_is_its_contexts_own_too() {
    let nn = nn();
    let begun = || Object::new("Model").truth("training", false);
    let model_of = |parts: &str, attribute: &str, body: &[&str], object: Object| {
        let attributes = ["training : bool", attribute];
        model(&format!("{parts}{}", class(&attributes, "x: Tensor) -> Tensor", body)), &object)
    };
    let tensor_of = |first: &'static str| [first, "return torch.add_(sum, x, alpha=1)"];
    // Evaluation mode is one of modules; this is only called so.
    let mode = "class Mode:\n  training : bool\n  sum : Tensor\n";
    let trains = {
        let begin = b"(c__torch__\nMode\n)\x81}(";
        [&begin[..], &text("training"), b"\x88", &text("sum")].concat()
    };
    let hidden = [
        "mode = (self.modes)[0]",
        "sum = mode.sum",
        "if mode.training:",
        "  y = torch.add_(sum, x, alpha=1)",
        "else:",
        "  y = torch.add(sum, x, alpha=1)",
        "return y",
    ];
    for archive in [
        model_of(
            "",
            "sums : List[Tensor]",
            &tensor_of("sum = (self.sums)[0]"),
            begun().list_of_tensor("sums", &[0.0]),
        ),
        model_of(
            "",
            "sums : Tuple[Tensor]",
            &tensor_of("sum, = self.sums"),
            begun().around_tensor("sums", b"(", &[0.0], b"t"),
        ),
        model_of(
            mode,
            "modes : Tuple[__torch__.Mode]",
            &hidden,
            begun().around_tensor("modes", &trains, &[0.0], b"ubt"),
        ),
    ] {
        let (mut first, mut second) = (ready(&nn, &archive), ready(&nn, &archive));
        assert_eq!(first.run(&[&[1.0]]), [1.0]);
        assert_eq!(first.run(&[&[2.0]]), [3.0]);
        assert_eq!(second.run(&[&[5.0]]), [5.0]);
        assert!(first.task.shared_graph(0).is_stateful());
    }
}

/// As `torch.jit.script` writes a layer that counts while it is trained.
#[test]
fn what_only_training_writes_to_is_shared() {
    let nn = nn();
    let attributes = ["count : int", "training : bool", "mean : Tensor", "deviation : Tensor"];
    let layer = [
        "training = self.training",
        "if training:",
        "  count = self.count",
        "  self.count = torch.add(count, 1)",
        "else:",
        "  pass",
        "training0 = self.training",
        "if training0:",
        "  trains = True",
        "else:",
        "  trains = False",
        "_0 = __torch__.batch_norm",
        "return _0(x, self.mean, self.deviation, trains, )",
    ];
    let code = class(&attributes, "x: Tensor) -> Tensor", &layer);
    let code = format!(
        "{code}def batch_norm(x: Tensor,\n    mean: Optional[Tensor],\n    \
         deviation: Optional[Tensor],\n    training: bool=False) -> Tensor:\n  \
         return torch.batch_norm(x, None, None, mean, deviation, training, 0.1, 0., True)\n"
    );
    let object = Object::new("Model").number("count", 0).truth("training", true);
    let object = object.tensor("mean", &[1.0]).tensor("deviation", &[4.0]);
    let mut ready = ready(&nn, &model(&code, &object));
    assert!(!ready.task.shared_graph(0).is_stateful());
    let (task, context) = (&mut ready.task, ready.context);
    task.set_input(context, 0, F32, &[1, 1, 2], &floats(&[1.0, 5.0])).expect("it fits");
    task.compute(context).expect("computed");
    assert_eq!(numbers(&output(task, context, 0)), [0.0, 2.0]);
}
