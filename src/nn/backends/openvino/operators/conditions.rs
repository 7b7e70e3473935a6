//! The conditions of the list, from what is known of an operator's inputs.

use super::{Condition, Doubt, Fact};

/// The text of an attribute by its name, if it is there: numbers with commas
/// between them, as OpenVINO writes them.
pub(in crate::nn) type Attributes<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The longest step.
const MOST_STEP: u64 = 1 << 30;

fn shape(inputs: &[Fact], input: usize) -> Option<&[u64]> {
    inputs.get(input).and_then(|fact| fact.shape.as_deref())
}

/// The dimension of a value that an axis selects, if both are known.
pub(in crate::nn) fn dimension(of: &Fact, axis: i64) -> Option<u64> {
    let dims = of.shape.as_deref()?;
    dims.get(place(axis, dims.len())?).copied()
}

/// Proves a condition on an attribute from its text, if it has one.
fn attribute(
    condition: Condition,
    (key, least, most): (&str, i64, i64),
    text: Option<String>,
) -> Result<(), Doubt> {
    let text = text.unwrap_or_default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = part.parse::<i64>().ok().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let part: String = part.chars().take(20).collect();
            let why = format!("its `{key}` is {part}, not from {least} to {most}");
            return Err(Doubt::of(condition, why));
        }
    }
    Ok(())
}

/// Proves a condition, from what is known of the inputs and the attributes.
/// [`Condition::Bodies`] is for each encoding to prove.
pub(in crate::nn) fn holds(
    condition: Condition,
    inputs: &[Fact],
    attributes: Attributes<'_>,
) -> Result<(), Doubt> {
    let shape = |input: usize| shape(inputs, input);
    let values = |input: usize| inputs.get(input).and_then(|fact| fact.values.as_deref());
    let doubt = |why: String| Err(Doubt::of(condition, why));
    match condition {
        Condition::Index { indices, of, axis } => {
            let (Some(places), Some(dims)) = (values(indices), shape(of)) else {
                return doubt(format!(
                    "its indices (input {indices}) are not constants, or what they select from \
                     (input {of}) has no fixed shape"
                ));
            };
            let selected = values(axis).and_then(|axis| axis.first());
            let size = selected.and_then(|&axis| dims.get(place(axis, dims.len())?));
            let Some(&size) = size else {
                return doubt(format!("its axis (input {axis}) is not a dimension of input {of}"));
            };
            within(condition, places, size, indices)
        }
        Condition::Tuple { indices, of } => {
            let known = values(indices).zip(shape(indices)).zip(shape(of));
            let Some(((places, rows), dims)) = known else {
                return doubt(format!(
                    "its indices (input {indices}) are not constants, or what they select from \
                     (input {of}) has no fixed shape"
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
                     has no fixed shape"
                ));
            };
            let wrong = axes.iter().find(|&&axis| place(axis, dims.len()).is_none());
            match wrong {
                Some(axis) => doubt(format!("its axis {axis} is not a dimension of input {of}")),
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
        Condition::NotEmpty { input } => match inputs.get(input) {
            None => Ok(()),
            Some(fact) if fact.is_filled() => Ok(()),
            Some(_) => doubt(format!("its input {input} may be empty")),
        },
        Condition::Fixed { input } => match inputs.get(input) {
            None => Ok(()),
            Some(fact) if fact.is_fixed() && fact.is_filled() => Ok(()),
            Some(_) => doubt(format!("its input {input} has no fixed shape")),
        },
        Condition::Absent { input } => match inputs.get(input) {
            None => Ok(()),
            Some(_) => doubt(format!("it has an input {input}, which is not checked")),
        },
        Condition::Attribute { key, least, most } => {
            attribute(condition, (key, least, most), attributes(key))
        }
        Condition::AttributeNot { key, not } => {
            let text = attributes(key).unwrap_or_default();
            let numbers = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            match numbers.into_iter().all(|part| part.parse::<i64>().is_ok_and(|n| n != not)) {
                true => Ok(()),
                false => doubt(format!("its `{key}` may be {not}")),
            }
        }
        Condition::AttributeWithout { key, part } => {
            let text = attributes(key).unwrap_or_default().to_lowercase();
            match text.contains(part) {
                true => doubt(format!("its `{key}` is of the kind `{part}`")),
                false => Ok(()),
            }
        }
        Condition::Attributed { key, input } => {
            let last = shape(input).and_then(|dims| dims.last().copied());
            let number = attributes(key).and_then(|text| text.parse().ok());
            match number.is_some() && number == last {
                true => Ok(()),
                false => doubt(format!("its `{key}` may not be that of its input {input}")),
            }
        }
        Condition::Operands => {
            let empty = |fact: &Fact| !fact.constant && !fact.is_filled();
            let several = inputs.iter().filter(|fact| !fact.constant).count() > 1;
            match inputs.iter().position(empty).filter(|_| several) {
                Some(input) => {
                    let why = format!("its input {input} may be empty");
                    Err(Doubt::of(Condition::NotEmpty { input }, why))
                }
                None => Ok(()),
            }
        }
        Condition::NoProducts => {
            let mut products = inputs.iter().enumerate().filter(|(_, fact)| fact.product);
            match (products.next(), products.next()) {
                (Some((input, _)), Some(_)) => {
                    let why = "two of its inputs are products of open shapes";
                    Err(Doubt::of(Condition::NotEmpty { input }, why))
                }
                _ => Ok(()),
            }
        }
        Condition::Inner => match inputs.len() == 2 && inputs.iter().all(Fact::is_fixed) {
            true => Ok(()),
            false => doubt("what it multiplies may be of other sizes".to_owned()),
        },
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
