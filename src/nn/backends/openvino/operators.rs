//! What OpenVINO's operators do with memory that is not theirs: the one list,
//! and how the graph of any encoding is held to it.
//!
//! OpenVINO trusts the inputs of its operators: an index out of range is read
//! where it points to, and what an operator does not write stays as it was in
//! the heap. So each operator is safe whatever it is given, or safe when what
//! its [`Condition`]s say is proven of its inputs, or refused; one that is not
//! in the list is refused, too. The list is held to what `tests/probe` saw
//! of the supported version. Nothing here knows an encoding.

use std::cmp::Ordering;
use std::sync::Arc;

mod conditions;
mod extents;
mod list;
mod memory;

pub(in crate::nn) use self::conditions::{Attributes, dimension, holds};
pub(in crate::nn) use self::extents::{Window, made};
use self::list::LIST;
pub(in crate::nn) use self::memory::{Step, peak};
use crate::nn::refusal::{Errno, Refusal};

/// The version of OpenVINO whose operators were probed for the list.
pub const PROBED: &str = "2026.4.1";

/// The opsets that the list covers: 1 to this.
const OPSETS: u32 = 17;

/// Which operators a model may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Operators {
    /// Those that can't reach memory that is not theirs, or are proven not to.
    #[default]
    Checked,
    /// All: for who knows each model that is loaded.
    All,
}

/// What the list says of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nn) enum Rule {
    /// Whatever its attributes and inputs are, it touches its own memory alone.
    Safe,
    /// It does if each of these holds.
    When(&'static [Condition]),
    /// It may touch other memory in ways that are not checked: what it does.
    Refused(&'static str),
}

/// What must hold of an operator's inputs, which are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nn) enum Condition {
    /// Each element of the input `indices` is a place in the dimension of the
    /// input `of` that the constant input `axis` selects; a negative one counts
    /// from its end.
    Index { indices: usize, of: usize, axis: usize },
    /// Each number of the constant input `indices` is a place in any dimension of
    /// the input `of`, and its rows are no longer than that has dimensions.
    Tuple { indices: usize, of: usize },
    /// The input is left out, or constant steps: none is 0 or overflows.
    NonZero { input: usize },
    /// The elements of the constant input `axes` are dimensions of the input `of`.
    Axes { axes: usize, of: usize },
    /// The input is left out, or its elements are constants from `least` to `most`.
    Within { input: usize, least: i64, most: i64 },
    /// The input is left out, or has elements.
    NotEmpty { input: usize },
    /// The input is left out.
    Absent { input: usize },
    /// The input, and each dimension of it, is known.
    Fixed { input: usize },
    /// The numbers of the attribute are from `least` to `most`.
    Attribute { key: &'static str, least: i64, most: i64 },
    /// None of the attribute's numbers is this one.
    AttributeNot { key: &'static str, not: i64 },
    /// The attribute's text, in lower case, does not contain this.
    AttributeWithout { key: &'static str, part: &'static str },
    /// The number of the attribute is the last dimension of the input.
    Attributed { key: &'static str, input: usize },
    /// Its inputs have elements, unless all but one are constants.
    Operands,
    /// No two of its inputs are products of open shapes.
    NoProducts,
    /// What the inputs 0 and 1 are multiplied along is as long in the one as in the
    /// other, or their shapes are fixed: then the library compares it itself.
    Inner,
    /// Its bodies are held to this list, and what they give covers its outputs.
    Bodies,
}

/// What a graph's own scan knows of one value, such as an input of an operator.
/// All of it is certain: what a model only says of itself is not in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::nn) struct Fact {
    /// Its dimensions, if all of them are known.
    pub(in crate::nn) shape: Option<Vec<u64>>,
    /// Its elements, if it is a constant of integers whose bytes are there.
    pub(in crate::nn) values: Option<Arc<[i64]>>,
    /// Its shape is the same in each inference, though it may not be known here.
    fixed: bool,
    /// It has elements, though its shape may not be known here.
    filled: bool,
    /// It is a constant.
    constant: bool,
    /// It is a product of open shapes.
    product: bool,
}

impl Fact {
    /// Of a value of this shape.
    pub(in crate::nn) fn shaped(shape: Option<Vec<u64>>) -> Fact {
        Fact { shape, ..Fact::default() }
    }

    /// Of a constant: its elements, if they are integers that are looked at.
    pub(in crate::nn) fn constant(shape: Option<Vec<u64>>, values: Option<Vec<i64>>) -> Fact {
        Fact { shape, values: values.map(Arc::from), constant: true, ..Fact::default() }
    }

    /// The same of a value that has elements: without any, there was an error. What
    /// makes certain of it is what the library sees.
    pub(in crate::nn) fn with_elements(self) -> Fact {
        Fact { filled: true, product: false, ..self }
    }

    /// The same of a value of which more is known.
    pub(in crate::nn) fn with(self, shape: Option<Vec<u64>>, values: Option<Arc<[i64]>>) -> Fact {
        Fact { shape, values, ..self }
    }

    /// Whether its shape is the same in each inference.
    pub(in crate::nn) fn is_fixed(&self) -> bool {
        self.fixed || self.shape.is_some() || self.values.is_some()
    }

    /// Whether it has elements.
    pub(in crate::nn) fn is_filled(&self) -> bool {
        let known = self.shape.as_ref().is_some_and(|dims| !dims.contains(&0));
        self.filled || known || self.values.as_ref().is_some_and(|values| !values.is_empty())
    }
}

/// Why an operator is not proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nn) struct Doubt {
    /// The condition that does not hold, which an encoding may know to bring
    /// about; none if nothing helps.
    pub(in crate::nn) condition: Option<Condition>,
    /// What is wrong, such as "its indices are not constant".
    pub(in crate::nn) why: String,
}

impl Doubt {
    /// Of a condition, which an encoding may know to bring about.
    pub(in crate::nn) fn of(condition: Condition, why: impl Into<String>) -> Doubt {
        Doubt { condition: Some(condition), why: why.into() }
    }

    /// Of something that nothing helps.
    pub(in crate::nn) fn plain(why: impl Into<String>) -> Doubt {
        Doubt { condition: None, why: why.into() }
    }

    /// The refusal of a layer of that name.
    pub(in crate::nn) fn refusal(&self, operator: &str, layer: &str) -> Refusal {
        let short = |text: &str| text.chars().take(80).collect::<String>();
        let (operator, layer) = (short(operator), short(layer));
        Refusal::new(
            Errno::UnsupportedOperation,
            format!(
                "the model's operator {operator} (layer `{layer}`) may reach memory that is not \
                 its own: {}; where every model is trusted, --nn-operators=all takes it",
                self.why
            ),
        )
    }
}

/// What the list says of an operator of one of OpenVINO's opsets, by its type's
/// name. Its reader takes upper case for lower case.
pub(in crate::nn) fn rule(operator: &str) -> Option<Rule> {
    // The intermediate representation's own name for it.
    let operator = if operator.eq_ignore_ascii_case("Const") { "Constant" } else { operator };
    let found = LIST.binary_search_by(|(name, _)| order(name, operator));
    found.ok().map(|at| LIST[at].1)
}

/// The names of all operators in the list.
#[cfg(all(test, feature = "openvino"))]
pub(in crate::nn) fn names() -> impl Iterator<Item = &'static str> {
    LIST.iter().map(|(name, _)| *name)
}

/// Proves that an operator is of one of OpenVINO's opsets. Others are those that
/// the library and its plugins have for themselves, which a model can name, too.
pub(in crate::nn) fn in_an_opset(version: &str) -> Result<(), Doubt> {
    let opset = version.strip_prefix("opset").and_then(|number| number.parse().ok());
    match opset.is_some_and(|number: u32| (1..=OPSETS).contains(&number)) {
        true => Ok(()),
        false => Err(Doubt::plain("it is in none of OpenVINO's opsets")),
    }
}

/// What must hold of an operator's inputs, for one that may be in a model at all.
pub(in crate::nn) fn conditions(operator: &str) -> Result<&'static [Condition], Doubt> {
    match rule(operator) {
        Some(Rule::Safe) => Ok(&[]),
        Some(Rule::When(conditions)) => Ok(conditions),
        Some(Rule::Refused(why)) => Err(Doubt::plain(why)),
        None => Err(Doubt::plain("it is not known")),
    }
}

/// Proves an operator against the list, from what is known of its inputs and
/// its attributes.
pub(in crate::nn) fn prove(
    operator: &str,
    inputs: &[Fact],
    attributes: Attributes<'_>,
) -> Result<(), Doubt> {
    conditions(operator)?.iter().try_for_each(|&condition| holds(condition, inputs, attributes))
}

fn order(a: &str, b: &str) -> Ordering {
    let lower = |text: &str| -> Vec<u8> { text.bytes().map(|b| b.to_ascii_lowercase()).collect() };
    lower(a).cmp(&lower(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(shape: &[u64], values: &[i64]) -> Fact {
        Fact::constant(Some(shape.to_vec()), Some(values.to_vec()))
    }

    fn shape(shape: &[u64]) -> Fact {
        Fact::shaped(Some(shape.to_vec()))
    }

    fn proven(operator: &str, inputs: &[Fact]) -> Result<(), Doubt> {
        prove(operator, inputs, &|_| None)
    }

    fn why(operator: &str, inputs: &[Fact]) -> String {
        proven(operator, inputs).expect_err(operator).why
    }

    #[test]
    fn the_list_is_in_order_and_has_each_operator_once() {
        for pair in LIST.windows(2) {
            assert_eq!(order(pair[0].0, pair[1].0), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn an_operator_is_found_however_it_is_written() {
        for name in ["GatherND", "gathernd", "GATHERND"] {
            assert!(matches!(rule(name), Some(Rule::When(_))), "{name}");
        }
        assert_eq!(rule("ReLU"), Some(Rule::Safe));
        assert_eq!(rule("Const"), Some(Rule::Safe));
        assert_eq!(rule("Unheard"), None);
        assert_eq!(why("Unheard", &[]), "it is not known");
    }

    #[test]
    fn constant_indices_are_proven_within_their_dimension() {
        let axis = constant(&[], &[0]);
        for inside in [[0, 4], [-5, -1]] {
            let inputs = [shape(&[5, 2]), constant(&[2], &inside), axis.clone()];
            assert_eq!(proven("Gather", &inputs), Ok(()));
        }
        for outside in [5, -6, i64::MAX, i64::MIN] {
            let inputs = [shape(&[5, 2]), constant(&[1], &[outside]), axis.clone()];
            assert!(why("Gather", &inputs).contains("out of a dimension of 5"), "{outside}");
        }
        let open = [shape(&[5, 2]), shape(&[2]), axis.clone()];
        assert!(why("Gather", &open).contains("(input 1) are not constants"));
        let unknown = [Fact::default().with_elements(), constant(&[1], &[0]), axis];
        assert!(why("Gather", &unknown).contains("no fixed shape"));
        for axis in [constant(&[], &[2]), constant(&[], &[-3]), constant(&[0], &[]), shape(&[])] {
            let inputs = [shape(&[5, 2]), constant(&[1], &[0]), axis];
            assert!(why("Gather", &inputs).contains("is not a dimension"));
        }
    }

    #[test]
    fn rows_of_indices_are_proven_within_the_dimensions() {
        let inside = [shape(&[2, 3]), constant(&[1, 2], &[1, 1])];
        assert_eq!(proven("GatherND", &inside), Ok(()));
        for row in [[1, 3], [3, 0]] {
            let inputs = [shape(&[2, 3]), constant(&[1, 2], &row)];
            assert!(why("GatherND", &inputs).contains("out of a dimension"), "{row:?}");
        }
        assert!(why("GatherND", &[shape(&[2]), constant(&[1, 2], &[0, 0])]).contains("too wide"));
        let negative = [shape(&[2, 3]), constant(&[1, 2], &[-1, 0])];
        assert!(why("GatherND", &negative).contains("is negative"));
    }

    #[test]
    fn steps_are_constants_and_not_zero() {
        let filled = || Fact::default().with_elements();
        let four = |step: Fact| [filled(), filled(), filled(), step];
        assert_eq!(proven("StridedSlice", &four(constant(&[2], &[1, -1]))), Ok(()));
        assert_eq!(proven("StridedSlice", &four(filled())[..3]), Ok(()));
        for step in [0, i64::from(i32::MIN), i64::MIN] {
            let why = why("StridedSlice", &four(constant(&[2], &[1, step])));
            assert!(why.contains(&format!("is {step}")), "{why}");
        }
        assert!(why("StridedSlice", &four(shape(&[2]))).contains("is not a constant"));
    }

    #[test]
    fn what_is_no_number_of_the_attribute_is_a_doubt() {
        let inputs = [shape(&[4]), constant(&[1], &[0]), constant(&[], &[0])];
        let with = |text: &'static str| {
            let attribute = move |key: &str| (key == "batch_dims").then(|| text.to_owned());
            prove("Gather", &inputs, &attribute)
        };
        assert_eq!(with("0"), Ok(()));
        for text in ["1", "-1", "x", "0x0", "0,1", "99999999999999999999"] {
            assert!(with(text).expect_err(text).why.contains("`batch_dims`"), "{text}");
        }
        let wide = |hidden: &'static str| {
            let inputs = vec![shape(&[1, 4, 3]); 6];
            prove("LSTMSequence", &inputs, &|_| Some(hidden.to_owned()))
        };
        assert_eq!(wide("3"), Ok(()));
        assert!(wide("4").expect_err("4").why.contains("`hidden_size`"));
        let resized = |mode: &'static str| {
            let inputs = vec![shape(&[1, 2, 3, 4]); 3];
            prove("Interpolate", &inputs, &|key| (key == "mode").then(|| mode.to_owned()))
        };
        assert_eq!(resized("cubic"), Ok(()));
        for mode in ["bilinear_pillow", "BICUBIC_PILLOW"] {
            assert!(resized(mode).expect_err(mode).why.contains("`mode`"), "{mode}");
        }
    }

    #[test]
    fn operands_have_elements_unless_all_but_one_are_constants() {
        let open = Fact::default;
        assert!(why("Add", &[open(), open()]).contains("its input 0 may be empty"));
        assert!(why("Add", &[open().with_elements(), open()]).contains("its input 1 may be empty"));
        assert_eq!(proven("Add", &[open().with_elements(), shape(&[1])]), Ok(()));
        assert_eq!(proven("Add", &[open(), constant(&[1], &[1])]), Ok(()));
    }

    #[test]
    fn two_products_of_open_shapes_are_kept_apart() {
        let filled = || Fact::default().with_elements();
        let product = made("Multiply", &[filled(), filled()], Window::Open);
        let moved = made("Reshape", &[product.clone(), shape(&[1])], Window::Open);
        assert!(why("Add", &[product.clone(), moved]).contains("products of open shapes"));
        assert_eq!(proven("Add", &[product.clone(), product.with_elements()]), Ok(()));
        let fixed = made("Multiply", &[shape(&[2]), shape(&[2])], Window::Open);
        assert_eq!(proven("Add", &[fixed.clone(), fixed]), Ok(()));
    }

    #[test]
    fn factors_are_of_fixed_shapes_or_compared() {
        assert_eq!(proven("MatMul", &[shape(&[2, 3]), shape(&[3, 4])]), Ok(()));
        let open = [Fact::default().with_elements(), shape(&[3, 4])];
        let doubt = proven("MatMul", &open).expect_err("open");
        assert_eq!(doubt.condition, Some(Condition::Inner));
    }

    #[test]
    fn operators_of_other_sets_are_refused() {
        assert_eq!((in_an_opset("opset1"), in_an_opset("opset17")), (Ok(()), Ok(())));
        for version in ["opset0", "opset18", "opset", "ie_internal_opset", "SnippetsOpset", ""] {
            assert!(in_an_opset(version).is_err(), "{version}");
        }
    }

    #[test]
    fn a_refusal_names_operator_layer_and_setting() {
        let refusal = proven("CTCLoss", &[]).expect_err("refused").refusal("CTCLoss", "loss");
        assert!(refusal.text.starts_with("the model's operator CTCLoss (layer `loss`)"));
        assert!(refusal.text.contains("--nn-operators=all"));
        let long = "x".repeat(10_000);
        let refusal = proven("Unheard", &[]).expect_err("refused").refusal("Unheard", &long);
        assert!(refusal.text.len() < 400);
    }
}
