//! What OpenVINO's operators do with memory that is not theirs: the one list,
//! and how the graph of any encoding is held to it.
//!
//! OpenVINO trusts the inputs of its operators: an index out of range is read
//! where it points to, and what an operator does not write stays as it was in
//! the heap. So each operator is safe whatever it is given, or safe when what
//! its [`Condition`]s say is proven of its inputs, or refused; one that is not
//! in the list is refused, too. The list is held to what `tests/probe` saw
//! of the supported version. Nothing here knows a backend or an encoding.

use std::cmp::Ordering;

mod list;

use self::list::LIST;
use super::refusal::{Errno, Refusal};

/// The opsets that the list covers: 1 to this.
const OPSETS: u32 = 17;

/// The longest step.
const MOST_STEP: u64 = 1 << 30;

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
    /// The number of the attribute is the last dimension of the input.
    Attributed { key: &'static str, input: usize },
    /// Its bodies are held to this list, and what they give covers its outputs.
    Bodies,
}

/// What a graph's own scan knows of one input of an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::nn) struct Fact {
    /// Its dimensions, if all of them are known for certain.
    pub(in crate::nn) shape: Option<Vec<u64>>,
    /// Its elements, if it is a constant of integers whose bytes are there.
    pub(in crate::nn) values: Option<Vec<i64>>,
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
    fn of(condition: Condition, why: impl Into<String>) -> Doubt {
        Doubt { condition: Some(condition), why: why.into() }
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

/// Proves that an operator of this type and opset may be in a model.
pub(in crate::nn) fn known(operator: &str, version: &str) -> Result<(), Doubt> {
    let doubt = |why: &str| Err(Doubt { condition: None, why: why.to_owned() });
    let opset = version.strip_prefix("opset").and_then(|number| number.parse().ok());
    if !opset.is_some_and(|number: u32| (1..=OPSETS).contains(&number)) {
        return doubt("it is of none of OpenVINO's opsets");
    }
    match rule(operator) {
        Some(Rule::Safe | Rule::When(_)) => Ok(()),
        Some(Rule::Refused(why)) => doubt(why),
        None => doubt("it is not known"),
    }
}

/// Proves an operator against the list, from what is known of its inputs.
pub(in crate::nn) fn prove(operator: &str, inputs: &[Fact]) -> Result<(), Doubt> {
    match rule(operator) {
        Some(Rule::Safe) => Ok(()),
        Some(Rule::When(conditions)) => {
            conditions.iter().try_for_each(|&condition| match condition {
                // Attributes are those that OpenVINO's own reader writes.
                Condition::Attribute { .. } | Condition::Attributed { .. } => Ok(()),
                // Whether a value has elements shows when it is there: see SECURITY.md.
                Condition::NotEmpty { input } if shape(inputs, input).is_none() => Ok(()),
                _ => holds(condition, inputs),
            })
        }
        Some(Rule::Refused(why)) => Err(Doubt { condition: None, why: why.to_owned() }),
        None => Err(Doubt { condition: None, why: "it is not known".to_owned() }),
    }
}

fn order(a: &str, b: &str) -> Ordering {
    let lower = |text: &str| -> Vec<u8> { text.bytes().map(|b| b.to_ascii_lowercase()).collect() };
    lower(a).cmp(&lower(b))
}

fn shape(inputs: &[Fact], input: usize) -> Option<&[u64]> {
    inputs.get(input).and_then(|fact| fact.shape.as_deref())
}

/// The dimension of a value that an axis selects, if both are known.
pub(in crate::nn) fn dimension(of: &Fact, axis: i64) -> Option<u64> {
    let dims = of.shape.as_deref()?;
    dims.get(place(axis, dims.len())?).copied()
}

/// Proves a condition on an attribute, from its text and what is known of the
/// inputs.
pub(in crate::nn) fn attribute<'a>(
    condition: Condition,
    inputs: &[Fact],
    text: impl FnOnce(&str) -> Option<&'a str>,
) -> Result<(), Doubt> {
    if let Condition::Attributed { key, input } = condition {
        let last = shape(inputs, input).and_then(|dims| dims.last().copied());
        let number = text(key).and_then(|text| text.parse().ok());
        if number.is_some() && number == last {
            return Ok(());
        }
        let why = format!("its `{key}` may not be that of its input {input}");
        return Err(Doubt::of(condition, why));
    }
    let Condition::Attribute { key, least, most } = condition else {
        return Err(Doubt::of(condition, "it is no attribute"));
    };
    let Some(text) = text(key) else { return Ok(()) };
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    for part in parts {
        let number = part.parse::<i64>().ok().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let part: String = part.chars().take(20).collect();
            let why = format!("its `{key}` is {part}, not from {least} to {most}");
            return Err(Doubt::of(condition, why));
        }
    }
    Ok(())
}

/// Proves a condition, from what is known of the inputs.
pub(in crate::nn) fn holds(condition: Condition, inputs: &[Fact]) -> Result<(), Doubt> {
    let shape = |input: usize| shape(inputs, input);
    let values = |input: usize| inputs.get(input).and_then(|fact| fact.values.as_deref());
    let doubt = |why: String| Err(Doubt::of(condition, why));
    match condition {
        Condition::Index { indices, of, axis } => {
            let (Some(places), Some(dims)) = (values(indices), shape(of)) else {
                return doubt(format!(
                    "its indices (input {indices}) are not constants, or what they select from \
                     (input {of}) is of no fixed shape"
                ));
            };
            let selected = values(axis).and_then(|axis| axis.first());
            let size = selected.and_then(|&axis| dims.get(place(axis, dims.len())?));
            let Some(&size) = size else {
                return doubt(format!("its axis (input {axis}) is no dimension of input {of}"));
            };
            within(condition, places, size, indices)
        }
        Condition::Tuple { indices, of } => {
            let known = values(indices).zip(shape(indices)).zip(shape(of));
            let Some(((places, rows), dims)) = known else {
                return doubt(format!(
                    "its indices (input {indices}) are not constants, or what they select from \
                     (input {of}) is of no fixed shape"
                ));
            };
            let width = rows.last().map_or(0, |&width| width as usize);
            let least = dims.iter().min().copied().unwrap_or(0);
            if width == 0 || width > dims.len() {
                return doubt(format!("its indices (input {indices}) are too wide"));
            }
            if let Some(index) = places.iter().find(|index| **index < 0) {
                return doubt(format!("its index {index} (input {indices}) is negative"));
            }
            within(condition, places, least, indices)
        }
        Condition::NonZero { input } => match (inputs.get(input), values(input)) {
            (None, _) => Ok(()),
            (_, Some(steps)) => {
                let wrong = |step: &&i64| **step == 0 || step.unsigned_abs() > MOST_STEP;
                match steps.iter().find(wrong) {
                    Some(step) => doubt(format!("a step (input {input}) is {step}")),
                    None => Ok(()),
                }
            }
            (_, None) => doubt(format!("its step (input {input}) is not a constant")),
        },
        Condition::Axes { axes, of } => {
            let (Some(axes), Some(dims)) = (values(axes), shape(of)) else {
                return doubt(format!(
                    "its axes (input {axes}) are not constants, or what they are of (input {of}) \
                     is of no fixed shape"
                ));
            };
            let wrong = axes.iter().find(|&&axis| place(axis, dims.len()).is_none());
            match wrong {
                Some(axis) => doubt(format!("its axis {axis} is no dimension of input {of}")),
                None => Ok(()),
            }
        }
        Condition::Within { input, least, most } => match (inputs.get(input), values(input)) {
            (None, _) => Ok(()),
            (_, Some(all)) => match all.iter().find(|value| !(least..=most).contains(*value)) {
                Some(value) => doubt(format!("its input {input} is {value}")),
                None => Ok(()),
            },
            (_, None) => doubt(format!("its input {input} is not a constant")),
        },
        Condition::NotEmpty { input } => match (inputs.get(input), shape(input)) {
            (None, _) => Ok(()),
            (_, Some(dims)) if !dims.contains(&0) => Ok(()),
            _ => doubt(format!("its input {input} may be empty")),
        },
        Condition::Fixed { input } => match (inputs.get(input), shape(input)) {
            (None, _) => Ok(()),
            (_, Some(dims)) if !dims.contains(&0) => Ok(()),
            _ => doubt(format!("its input {input} is of no fixed shape")),
        },
        Condition::Absent { input } => match inputs.get(input) {
            None => Ok(()),
            Some(_) => doubt(format!("it has an input {input}, which is not checked")),
        },
        Condition::Attribute { key, .. } => doubt(format!("its `{key}` is not looked at")),
        Condition::Attributed { key, .. } => doubt(format!("its `{key}` is not looked at")),
        Condition::Bodies => doubt("it has bodies, which are not looked into".to_owned()),
    }
}

fn within(condition: Condition, places: &[i64], size: u64, input: usize) -> Result<(), Doubt> {
    let wrong = places
        .iter()
        .find(|&&index| usize::try_from(size).ok().and_then(|size| place(index, size)).is_none());
    wrong.map_or(Ok(()), |index| {
        let why = format!("its index {index} (input {input}) is out of a dimension of {size}");
        Err(Doubt::of(condition, why))
    })
}

/// A place in so many, counted from the end if it is negative.
fn place(index: i64, size: usize) -> Option<usize> {
    let size = i64::try_from(size).ok()?;
    let place = if index < 0 { index.checked_add(size)? } else { index };
    (0..size).contains(&place).then_some(place as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(shape: &[u64], values: &[i64]) -> Fact {
        Fact { shape: Some(shape.to_vec()), values: Some(values.to_vec()) }
    }

    fn shape(shape: &[u64]) -> Fact {
        Fact { shape: Some(shape.to_vec()), values: None }
    }

    fn why(operator: &str, inputs: &[Fact]) -> String {
        prove(operator, inputs).expect_err(operator).why
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
            assert_eq!(prove("Gather", &inputs), Ok(()));
        }
        for outside in [5, -6, i64::MAX, i64::MIN] {
            let inputs = [shape(&[5, 2]), constant(&[1], &[outside]), axis.clone()];
            assert!(why("Gather", &inputs).contains("out of a dimension of 5"), "{outside}");
        }
        let open = [shape(&[5, 2]), shape(&[2]), axis.clone()];
        assert!(why("Gather", &open).contains("(input 1) are not constants"));
        let unknown = [Fact::default(), constant(&[1], &[0]), axis];
        assert!(why("Gather", &unknown).contains("no fixed shape"));
        for axis in [constant(&[], &[2]), constant(&[], &[-3]), constant(&[0], &[]), shape(&[])] {
            let inputs = [shape(&[5, 2]), constant(&[1], &[0]), axis];
            assert!(why("Gather", &inputs).contains("is no dimension"));
        }
    }

    #[test]
    fn rows_of_indices_are_proven_within_the_dimensions() {
        let inside = [shape(&[2, 3]), constant(&[1, 2], &[1, 1])];
        assert_eq!(prove("GatherND", &inside), Ok(()));
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
        let four = |step: Fact| [Fact::default(), Fact::default(), Fact::default(), step];
        assert_eq!(prove("StridedSlice", &four(constant(&[2], &[1, -1]))), Ok(()));
        assert_eq!(prove("StridedSlice", &four(Fact::default())[..3]), Ok(()));
        for step in [0, i64::from(i32::MIN), i64::MIN] {
            let why = why("StridedSlice", &four(constant(&[2], &[1, step])));
            assert!(why.contains(&format!("is {step}")), "{why}");
        }
        assert!(why("StridedSlice", &four(shape(&[2]))).contains("is not a constant"));
    }

    #[test]
    fn a_refusal_names_operator_layer_and_setting() {
        let refusal = prove("CTCLoss", &[]).expect_err("refused").refusal("CTCLoss", "loss");
        assert!(refusal.text.starts_with("the model's operator CTCLoss (layer `loss`)"));
        assert!(refusal.text.contains("--nn-operators=all"));
        let long = "x".repeat(10_000);
        let refusal = prove("Unheard", &[]).expect_err("refused").refusal("Unheard", &long);
        assert!(refusal.text.len() < 400);
    }
}
