//! WAVE, the text of values: into values of a component's types, and back.
//!
//! The texts are a task's and the types its component's: neither can be
//! trusted. The parser bounds how deep a text is nested; here it is bounded how
//! long it is, and what its values cost: a record of a thousand optional fields
//! is four characters. The parser's own conversion into typed values has no such
//! bound, searches each record quadratically, and names no place in its errors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use wasmtime::component::wasm_wave::ast::{Node, NodeType};
use wasmtime::component::wasm_wave::parser::ParserError;
use wasmtime::component::wasm_wave::untyped::UntypedValue;
use wasmtime::component::wasm_wave::wasm::DisplayType;
use wasmtime::component::wasm_wave::writer::Writer;
use wasmtime::component::{Type, Val};

/// The most bytes of a call's texts together.
pub(in crate::runtime) const MAX_TEXT: usize = 1 << 20;

/// The most that the values of a call may cost, in bytes or steps.
const MAX_COST: usize = 64 << 20;

/// What a value costs by itself.
const VALUE: usize = 64;

/// The most bytes of a type, and of a value, that a message repeats.
const MAX_TYPE: usize = 300;
const MAX_FOUND: usize = 60;

/// A function's parameter.
pub(super) type Param<'a> = (&'a str, Type);

/// The values of a call, one text each.
///
/// # Errors
///
/// A sentence: which text is wrong, where, and what was expected there.
pub(super) fn values(params: &[Param<'_>], texts: &[String]) -> Result<Vec<Val>, String> {
    bounded(texts.iter().map(String::len).sum())?;
    let mut reader = Reader { left: MAX_COST };
    let texts = params.iter().zip(texts).enumerate();
    texts
        .map(|(at, ((name, ty), text))| {
            let which = format!("input {} (`{name}`)", at + 1);
            let untyped = UntypedValue::parse(text).map_err(|error| {
                format!("{which} is not written as WAVE: {error}{}", quotes(ty, text))
            })?;
            let value = reader.read(ty, untyped.node(), text);
            value.map_err(|wrong| format!("{which}{}", wrong.sentence(text)))
        })
        .collect()
}

/// The values of a call that is written out: `text` is what stands behind the
/// function's name, from the opening parenthesis on. Optional values at the end
/// may be left out.
///
/// # Errors
///
/// As of [`values`].
pub(super) fn arguments(params: &[Param<'_>], text: &str) -> Result<Vec<Val>, String> {
    bounded(text.len())?;
    let empty = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let untyped = match empty.filter(|inside| inside.trim().is_empty()) {
        Some(_) => None,
        None => Some(UntypedValue::parse(text).map_err(|error| {
            format!("`{}` is not written as WAVE: {error}", cut(text, MAX_FOUND))
        })?),
    };
    let nodes: Vec<&Node> = match untyped.as_ref().map(|untyped| untyped.node().as_tuple()) {
        None => Vec::new(),
        Some(Ok(nodes)) => nodes.collect(),
        Some(Err(_)) => return Err(format!("`{}` is not a list of values", cut(text, MAX_FOUND))),
    };
    // The last one that may not be left out.
    let last = params.iter().rposition(|(_, ty)| !matches!(ty, Type::Option(_)));
    let least = last.map_or(0, |last| last + 1);
    if nodes.len() < least || nodes.len() > params.len() {
        return Err(format!("{} values are given, and it takes {}", nodes.len(), params.len()));
    }
    let mut reader = Reader { left: MAX_COST };
    let mut values = Vec::with_capacity(params.len());
    for (at, (name, ty)) in params.iter().enumerate() {
        values.push(match nodes.get(at) {
            None => Val::Option(None),
            Some(node) => reader
                .read(ty, node, text)
                .map_err(|wrong| format!("value {} (`{name}`){}", at + 1, wrong.sentence(text)))?,
        });
    }
    Ok(values)
}

/// Writes a value as text, in pieces. Its type [`has_text`].
pub(super) fn write(value: &Val, out: &mut impl Write) -> Result<(), String> {
    Writer::new(out).write_value(value).map_err(|error| error.to_string())
}

/// Whether all values of this type have a text. Handles, streams and futures
/// have none.
pub(super) fn has_text(ty: &Type) -> bool {
    match ty {
        Type::Bool
        | Type::S8
        | Type::U8
        | Type::S16
        | Type::U16
        | Type::S32
        | Type::U32
        | Type::S64
        | Type::U64
        | Type::Float32
        | Type::Float64
        | Type::Char
        | Type::String
        | Type::Enum(_)
        | Type::Flags(_) => true,
        Type::List(list) => has_text(&list.ty()),
        Type::Record(record) => record.fields().all(|field| has_text(&field.ty)),
        Type::Tuple(tuple) => tuple.types().all(|ty| has_text(&ty)),
        Type::Variant(variant) => {
            variant.cases().all(|case| case.ty.is_none_or(|ty| has_text(&ty)))
        }
        Type::Option(option) => has_text(&option.ty()),
        Type::Result(result) => [result.ok(), result.err()].iter().flatten().all(has_text),
        _ => false,
    }
}

/// A type as WIT writes it, as far as a message goes.
pub(super) fn type_text(ty: &Type) -> String {
    struct Cut(String);
    impl Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let left = MAX_TYPE.saturating_sub(self.0.len());
            self.0.push_str(&text[..text.floor_char_boundary(left)]);
            // A type may be far longer than it is deep: no more of it is asked for.
            if text.len() > left { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut text = Cut(String::new());
    match write!(text, "{}", DisplayType(ty)) {
        Ok(()) => text.0,
        Err(fmt::Error) => text.0 + "...",
    }
}

fn bounded(bytes: usize) -> Result<(), String> {
    if bytes > MAX_TEXT {
        return Err(format!(
            "the values have {bytes} bytes as text, more than the {MAX_TEXT} that a call may have"
        ));
    }
    Ok(())
}

fn cut(text: &str, most: usize) -> String {
    let start = &text[..text.floor_char_boundary(most)];
    if start.len() < text.len() { format!("{start}...") } else { start.to_owned() }
}

/// The most likely mistake.
fn quotes(ty: &Type, text: &str) -> &'static str {
    match ty {
        Type::String if !text.starts_with('"') => " (a string stands in double quotes)",
        _ => "",
    }
}

/// Why a text is no value of its type.
enum Wrong {
    /// What was expected, at which place, and which part of the text is there.
    Value { place: Vec<String>, expected: String, found: std::ops::Range<usize> },
    /// The values cost too much.
    TooMuch,
}

impl Wrong {
    fn at(expected: String, node: &Node) -> Wrong {
        Wrong::Value { place: Vec::new(), expected, found: node.span() }
    }

    fn within(mut self, part: String) -> Wrong {
        if let Wrong::Value { place, .. } = &mut self {
            place.push(part);
        }
        self
    }

    /// The end of a sentence that begins with the input.
    fn sentence(self, text: &str) -> String {
        match self {
            Wrong::Value { mut place, expected, found } => {
                place.reverse();
                let place = match place.as_slice() {
                    [] => String::new(),
                    place => format!(" at `{}`", cut(&place.concat(), MAX_TYPE)),
                };
                format!("{place}: expected {expected}, found `{}`", cut(&text[found], MAX_FOUND))
            }
            Wrong::TooMuch => {
                format!(
                    ": the values of a call may take {} MiB, and these take more",
                    MAX_COST >> 20
                )
            }
        }
    }
}

struct Reader {
    left: usize,
}

impl Reader {
    fn pay(&mut self, cost: usize) -> Result<(), Wrong> {
        self.left = self.left.checked_sub(cost).ok_or(Wrong::TooMuch)?;
        Ok(())
    }

    // As deep as the parser lets a text be.
    fn read(&mut self, ty: &Type, node: &Node, text: &str) -> Result<Val, Wrong> {
        self.pay(VALUE)?;
        let wrong = |_: ParserError| {
            let hint = match node.ty() {
                NodeType::Label => quotes(ty, ""),
                _ => "",
            };
            Wrong::at(format!("{}{hint}", type_text(ty)), node)
        };
        Ok(match ty {
            Type::Bool => Val::Bool(node.as_bool().map_err(wrong)?),
            Type::S8 => Val::S8(node.as_number(text).map_err(wrong)?),
            Type::U8 => Val::U8(node.as_number(text).map_err(wrong)?),
            Type::S16 => Val::S16(node.as_number(text).map_err(wrong)?),
            Type::U16 => Val::U16(node.as_number(text).map_err(wrong)?),
            Type::S32 => Val::S32(node.as_number(text).map_err(wrong)?),
            Type::U32 => Val::U32(node.as_number(text).map_err(wrong)?),
            Type::S64 => Val::S64(node.as_number(text).map_err(wrong)?),
            Type::U64 => Val::U64(node.as_number(text).map_err(wrong)?),
            Type::Float32 => Val::Float32(node.as_number(text).map_err(wrong)?),
            Type::Float64 => Val::Float64(node.as_number(text).map_err(wrong)?),
            Type::Char => Val::Char(node.as_char(text).map_err(wrong)?),
            Type::String => Val::String(node.as_str(text).map_err(wrong)?.into_owned()),
            Type::List(list) => {
                let (ty, nodes) = (list.ty(), node.as_list().map_err(wrong)?);
                Val::List(self.each(nodes.map(|node| (&ty, node)), text, |at| format!("[{at}]"))?)
            }
            Type::Tuple(tuple) => {
                let (types, nodes): (Vec<_>, _) =
                    (tuple.types().collect(), node.as_tuple().map_err(wrong)?);
                if types.len() != nodes.len() {
                    return Err(Wrong::at(type_text(ty), node));
                }
                Val::Tuple(self.each(types.iter().zip(nodes), text, |at| format!(".{at}"))?)
            }
            Type::Record(record) => {
                let mut given: BTreeMap<_, _> = node.as_record(text).map_err(wrong)?.collect();
                let mut fields = Vec::with_capacity(given.len());
                for field in record.fields() {
                    self.pay(VALUE + field.name.len())?;
                    let value = match (given.remove(field.name), &field.ty) {
                        (Some(node), ty) => self
                            .read(ty, node, text)
                            .map_err(|wrong| wrong.within(format!(".{}", field.name)))?,
                        (None, Type::Option(_)) => Val::Option(None),
                        (None, ty) => {
                            let expected = format!("a field `{}: {}`", field.name, type_text(ty));
                            return Err(Wrong::at(expected, node));
                        }
                    };
                    fields.push((field.name.to_owned(), value));
                }
                if let Some((name, node)) = given.first_key_value() {
                    let expected =
                        format!("no field `{}` in {}", cut(name, MAX_FOUND), type_text(ty));
                    return Err(Wrong::at(expected, node));
                }
                Val::Record(fields)
            }
            Type::Variant(variant) => {
                let (label, payload) = node.as_variant(text).map_err(wrong)?;
                self.pay(variant.cases().len())?;
                let case = variant.cases().find(|case| case.name == label);
                let case = case.ok_or_else(|| Wrong::at(type_text(ty), node))?;
                let payload = self.payload(label, &case.ty, payload, node, text)?;
                Val::Variant(label.to_owned(), payload)
            }
            Type::Enum(names) => {
                let label = node.as_enum(text).map_err(wrong)?;
                self.pay(names.names().len())?;
                if !names.names().any(|name| name == label) {
                    return Err(Wrong::at(type_text(ty), node));
                }
                Val::Enum(label.to_owned())
            }
            Type::Flags(flags) => {
                let given = node.as_flags(text).map_err(wrong)?;
                let given: Vec<_> = given.map(|name| name.trim_start_matches('%')).collect();
                self.pay(flags.names().len())?;
                let names: BTreeSet<_> = flags.names().collect();
                if !given.iter().all(|name| names.contains(name)) {
                    return Err(Wrong::at(type_text(ty), node));
                }
                Val::Flags(given.into_iter().map(str::to_owned).collect())
            }
            Type::Option(option) => match node.ty() {
                NodeType::OptionNone => Val::Option(None),
                NodeType::OptionSome => {
                    let payload = node.as_option().map_err(wrong)?;
                    Val::Option(self.payload("some", &Some(option.ty()), payload, node, text)?)
                }
                // `5` for `some(5)`.
                _ if bare(&option.ty()) => {
                    Val::Option(Some(Box::new(self.read(&option.ty(), node, text)?)))
                }
                _ => return Err(Wrong::at(type_text(ty), node)),
            },
            Type::Result(result) => match node.ty() {
                NodeType::ResultOk | NodeType::ResultErr => {
                    Val::Result(match node.as_result().map_err(wrong)? {
                        Ok(payload) => Ok(self.payload("ok", &result.ok(), payload, node, text)?),
                        Err(payload) => {
                            Err(self.payload("err", &result.err(), payload, node, text)?)
                        }
                    })
                }
                _ => match result.ok() {
                    Some(ok) if bare(&ok) => {
                        Val::Result(Ok(Some(Box::new(self.read(&ok, node, text)?))))
                    }
                    _ => return Err(Wrong::at(type_text(ty), node)),
                },
            },
            _ => {
                let expected = "a handle, a stream or another value that can't be given as text";
                return Err(Wrong::at(expected.to_owned(), node));
            }
        })
    }

    fn each<'n>(
        &mut self,
        nodes: impl Iterator<Item = (&'n Type, &'n Node)>,
        text: &str,
        place: fn(usize) -> String,
    ) -> Result<Vec<Val>, Wrong> {
        let read = |(at, (ty, node))| {
            self.read(ty, node, text).map_err(|wrong: Wrong| wrong.within(place(at)))
        };
        nodes.enumerate().map(read).collect()
    }

    fn payload(
        &mut self,
        case: &str,
        ty: &Option<Type>,
        payload: Option<&Node>,
        node: &Node,
        text: &str,
    ) -> Result<Option<Box<Val>>, Wrong> {
        match (ty, payload) {
            (None, None) => Ok(None),
            (Some(ty), Some(payload)) => {
                let value = self.read(ty, payload, text);
                value
                    .map(|value| Some(Box::new(value)))
                    .map_err(|wrong| wrong.within(format!(".{case}")))
            }
            (Some(ty), None) => Err(Wrong::at(format!("`{case}({})`", type_text(ty)), node)),
            (None, Some(_)) => Err(Wrong::at(format!("`{case}` without a value"), node)),
        }
    }
}

/// Whether `some` or `ok` around a value of this type may be left out.
fn bare(ty: &Type) -> bool {
    !matches!(ty, Type::Option(_) | Type::Result(_))
}
