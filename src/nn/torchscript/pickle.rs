//! Pickles of a module and its constants: the machine that makes their values,
//! as strict as what libtorch writes.
//!
//! libtorch's own machine believes what it reads: that the stack is not empty,
//! that a number on it names one of its functions, that a tensor's sizes lie
//! within its numbers. This one has the same instructions, makes nothing but
//! kinds of values, and refuses what libtorch would have to be trusted with.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::short;

/// The most values of a pickle, and how deep they may be in each other.
const MAX_VALUES: usize = 2_000_000;
const MAX_DEPTH: u16 = 64;
/// The most dimensions of a tensor.
const MAX_RANK: usize = 64;

/// Numbers of tensors, by the name of their entry below `data/` or `constants/`.
pub(super) type Numbers<'a> = HashMap<String, Cow<'a, [u8]>>;

/// A value on the stack, by its place among all of them.
type Ref = usize;

/// What a value is.
enum Kind<'a> {
    None,
    Number(i64),
    Truth,
    Float,
    Text(&'a str),
    List(Elements),
    Dict,
    Tuple(Vec<Ref>),
    /// Something to call, which an archive makes no other use of.
    Global(Global),
    /// Of a class, still without attributes.
    New,
    Object,
    /// A tensor's numbers, of an entry: how many, each of so many bytes.
    Storage {
        count: u64,
    },
    Tensor,
}

/// What a list was made of: only some lists may become typed ones.
enum Elements {
    Any(Vec<Ref>),
    Typed,
}

#[derive(Clone, Copy)]
enum Global {
    Class,
    Tensor,
    OrderedDict,
    /// `build_intlist` and its like.
    List(&'static str),
    Tag,
    /// `torch FloatStorage`: bytes of an element, and whether it is a truth value.
    Storage {
        size: u64,
        truth: bool,
    },
    Device,
}

struct Value<'a> {
    kind: Kind<'a>,
    depth: u16,
}

/// What a pickle is to come to.
#[derive(Clone, Copy)]
pub(super) enum Whole {
    Object,
    /// A tuple of tensors.
    Tensors,
}

/// Proves a pickle, whose tensors have these numbers and whose objects are of
/// these classes.
pub(super) fn prove(
    pickle: &[u8],
    numbers: &Numbers<'_>,
    classes: &HashSet<String>,
    whole: Whole,
) -> Result<(), String> {
    let mut machine = Machine {
        rest: pickle,
        numbers,
        classes,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        known: HashMap::new(),
    };
    let proven = machine.run(whole);
    proven.map_err(|error| format!("byte {}: {error}", pickle.len() - machine.rest.len()))
}

struct Machine<'a, 'n> {
    rest: &'a [u8],
    numbers: &'a Numbers<'n>,
    classes: &'a HashSet<String>,
    values: Vec<Value<'a>>,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: Vec<Ref>,
    /// Entries by what has been read from them: the same again is the same.
    known: HashMap<&'a str, (u64, u64)>,
}

type Step<T> = Result<T, String>;

impl<'a> Machine<'a, '_> {
    fn run(&mut self, whole: Whole) -> Step<()> {
        if self.take(2)? != [0x80, 2] {
            return Err("it is not of protocol 2".to_owned());
        }
        loop {
            let code = self.byte()?;
            if code == b'.' {
                break;
            }
            self.step(code)?;
        }
        if !self.rest.is_empty() || self.stack.len() != 1 || !self.marks.is_empty() {
            return Err("there is something left at its end".to_owned());
        }
        let last = self.pop()?;
        let kind = &self.values[last].kind;
        match (whole, kind) {
            (Whole::Object, Kind::Object) => Ok(()),
            // The types of others are not declared anywhere.
            (Whole::Tensors, Kind::Tuple(parts))
                if parts.iter().all(|&part| matches!(self.values[part].kind, Kind::Tensor)) =>
            {
                Ok(())
            }
            (Whole::Object, _) => Err("it is not an object".to_owned()),
            (Whole::Tensors, _) => Err("it is not a tuple of tensors".to_owned()),
        }
    }

    fn step(&mut self, code: u8) -> Step<()> {
        match code {
            b'N' => self.push(Kind::None, 0),
            0x88 | 0x89 => self.push(Kind::Truth, 0),
            b'K' => {
                let number = self.byte()?.into();
                self.push(Kind::Number(number), 0)
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?).into();
                self.push(Kind::Number(number), 0)
            }
            b'J' => {
                let number = i32::from_le_bytes(self.array()?).into();
                self.push(Kind::Number(number), 0)
            }
            0x8a => {
                if self.byte()? != 8 {
                    return Err("a number is not of 8 bytes".to_owned());
                }
                let number = i64::from_le_bytes(self.array()?);
                self.push(Kind::Number(number), 0)
            }
            b'G' => {
                self.take(8)?;
                self.push(Kind::Float, 0)
            }
            b'X' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                let text = std::str::from_utf8(self.take(length)?);
                let text = text.map_err(|_| "a text is not UTF-8".to_owned())?;
                self.push(Kind::Text(text), 0)
            }
            b']' => self.push(Kind::List(Elements::Any(Vec::new())), 1),
            b'}' => self.push(Kind::Dict, 1),
            b')' => self.push(Kind::Tuple(Vec::new()), 1),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b't' => {
                let parts = self.since_mark()?;
                self.tuple(parts)
            }
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let at = self.stack.len().checked_sub(count).filter(|&at| at >= self.floor());
                let parts = self.stack.split_off(at.ok_or_else(empty)?);
                self.tuple(parts)
            }
            b'a' => {
                let element = self.pop()?;
                self.append(vec![element])
            }
            b'e' => {
                let elements = self.since_mark()?;
                self.append(elements)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(items)
            }
            b'q' => {
                let place = self.byte()?.into();
                self.remember(place)
            }
            b'r' => {
                let place = u32::from_le_bytes(self.array()?) as usize;
                self.remember(place)
            }
            b'h' => {
                let place = self.byte()?.into();
                self.recall(place)
            }
            b'j' => {
                let place = u32::from_le_bytes(self.array()?) as usize;
                self.recall(place)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = self.global(module, name)?;
                self.push(Kind::Global(global), 0)
            }
            b'R' => self.call(),
            0x81 => self.new_object(),
            b'b' => self.build(),
            b'Q' => self.storage(),
            other => Err(format!("its instruction {other:#04x} is not one that libtorch writes")),
        }
    }

    // ---- Bytes ----

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| "it ends too early".to_owned())?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Step<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| "it ends too early".to_owned())
    }

    fn line(&mut self) -> Step<&'a str> {
        let end = self.rest.iter().take(1024).position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or_else(|| "a name has no end".to_owned())?)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "a name is not UTF-8".to_owned())
    }

    // ---- The stack ----

    fn push(&mut self, kind: Kind<'a>, depth: u16) -> Step<()> {
        if self.values.len() == MAX_VALUES {
            return Err(format!("it has more than {MAX_VALUES} values"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("its values are more than {MAX_DEPTH} deep in each other"));
        }
        self.stack.push(self.values.len());
        self.values.push(Value { kind, depth });
        Ok(())
    }

    /// What of the stack a mark does not cover.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Step<Ref> {
        if self.stack.len() <= self.floor() {
            return Err(empty());
        }
        self.stack.pop().ok_or_else(empty)
    }

    fn top(&self) -> Step<Ref> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(empty()),
        }
    }

    fn since_mark(&mut self) -> Step<Vec<Ref>> {
        let mark = self.marks.pop().ok_or_else(|| "there is no mark".to_owned())?;
        Ok(self.stack.split_off(mark))
    }

    fn depth_of(&self, parts: &[Ref]) -> u16 {
        1 + parts.iter().map(|&part| self.values[part].depth).max().unwrap_or(0)
    }

    fn tuple(&mut self, parts: Vec<Ref>) -> Step<()> {
        let depth = self.depth_of(&parts);
        self.push(Kind::Tuple(parts), depth)
    }

    fn append(&mut self, elements: Vec<Ref>) -> Step<()> {
        let (list, depth) = (self.top()?, self.depth_of(&elements));
        self.are_values(&elements)?;
        self.deepen(list, depth)?;
        match &mut self.values[list].kind {
            Kind::List(Elements::Any(all)) => all.extend(elements),
            _ => return Err("something is appended to what is no new list".to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Ref>) -> Step<()> {
        let (dict, depth) = (self.top()?, self.depth_of(&items));
        if !items.len().is_multiple_of(2) || !matches!(self.values[dict].kind, Kind::Dict) {
            return Err("a dictionary's keys and values are not pairs".to_owned());
        }
        let is_key = |key: &Ref| matches!(self.values[*key].kind, Kind::Text(_) | Kind::Number(_));
        if !items.iter().step_by(2).all(is_key) {
            return Err("a dictionary's key is neither a text nor a number".to_owned());
        }
        self.are_values(&items)?;
        self.deepen(dict, depth)
    }

    /// Nothing that is only to be called becomes part of a module: libtorch has
    /// numbers in its place.
    fn are_values(&self, parts: &[Ref]) -> Step<()> {
        let is = |part: &Ref| {
            let kind = &self.values[*part].kind;
            !matches!(kind, Kind::Global(_) | Kind::New | Kind::Storage { .. })
        };
        match parts.iter().all(is) {
            true => Ok(()),
            false => Err("a value is made of what is only to be called".to_owned()),
        }
    }

    fn deepen(&mut self, value: Ref, depth: u16) -> Step<()> {
        if depth > MAX_DEPTH {
            return Err(format!("its values are more than {MAX_DEPTH} deep in each other"));
        }
        let value = &mut self.values[value];
        value.depth = value.depth.max(depth);
        Ok(())
    }

    // Values are remembered in the order in which they are made, each once.
    fn remember(&mut self, place: usize) -> Step<()> {
        let top = self.top()?;
        if matches!(self.values[top].kind, Kind::New) {
            return Err("an object is remembered before it is there".to_owned());
        }
        match place == self.memo.len() {
            true => self.memo.push(top),
            false => return Err("values are remembered out of order".to_owned()),
        }
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Step<()> {
        let value = self.memo.get(place).copied();
        self.stack.push(value.ok_or_else(|| "what is recalled was not remembered".to_owned())?);
        // A pickle of recalls alone would make a stack without end.
        match self.stack.len() > MAX_VALUES {
            true => Err(format!("it has more than {MAX_VALUES} values")),
            false => Ok(()),
        }
    }

    // ---- Calls ----

    fn global(&self, module: &'a str, name: &'a str) -> Step<Global> {
        const STORAGES: [(&str, u64, bool); 10] = [
            ("FloatStorage", 4, false),
            ("DoubleStorage", 8, false),
            ("HalfStorage", 2, false),
            ("BFloat16Storage", 2, false),
            ("LongStorage", 8, false),
            ("IntStorage", 4, false),
            ("ShortStorage", 2, false),
            ("CharStorage", 1, false),
            ("ByteStorage", 1, false),
            ("BoolStorage", 1, true),
        ];
        let refused = || Err(format!("it makes `{}.{}`", short(module), short(name)));
        Ok(match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Global::Tensor,
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch", "device") => Global::Device,
            ("torch", name) => match STORAGES.iter().find(|(storage, ..)| *storage == name) {
                Some(&(_, size, truth)) => Global::Storage { size, truth },
                None => return refused(),
            },
            ("torch.jit._pickle", "build_intlist") => Global::List("int"),
            ("torch.jit._pickle", "build_doublelist") => Global::List("float"),
            ("torch.jit._pickle", "build_boollist") => Global::List("bool"),
            ("torch.jit._pickle", "build_tensorlist") => Global::List("Tensor"),
            ("torch.jit._pickle", "restore_type_tag") => Global::Tag,
            _ if self.classes.contains(&format!("{module}.{name}")) => Global::Class,
            _ => return refused(),
        })
    }

    fn call(&mut self) -> Step<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Kind::Global(global) = self.values[function].kind else {
            return Err("something is called that is no function".to_owned());
        };
        let Kind::Tuple(arguments) = &self.values[arguments].kind else {
            return Err("a function's arguments are no tuple".to_owned());
        };
        let arguments = arguments.clone();
        let depth = self.depth_of(&arguments);
        match global {
            Global::Tensor => {
                self.tensor(&arguments)?;
                self.push(Kind::Tensor, 1)
            }
            // What belongs to a tensor's gradient: libtorch makes nothing of it.
            Global::OrderedDict if arguments.is_empty() => self.push(Kind::None, 0),
            Global::Device => match arguments.as_slice() {
                [device] if matches!(self.values[*device].kind, Kind::Text("cpu")) => {
                    self.push(Kind::Truth, 0)
                }
                _ => Err("a device is not the processor".to_owned()),
            },
            Global::List(of) => {
                let &[list] = arguments.as_slice() else { return Err(other("a list")) };
                let Kind::List(Elements::Any(elements)) = &self.values[list].kind else {
                    return Err(other("a list"));
                };
                let is = |element: &Ref| match &self.values[*element].kind {
                    Kind::Number(_) => of == "int",
                    Kind::Float => of == "float",
                    Kind::Truth => of == "bool",
                    Kind::Tensor => of == "Tensor",
                    _ => false,
                };
                if !elements.iter().all(is) {
                    return Err(format!("a list of {of} has something else in it"));
                }
                self.push(Kind::List(Elements::Typed), depth)
            }
            // That its elements are of that type is proven when libtorch has read it.
            Global::Tag => {
                let &[value, tag] = arguments.as_slice() else { return Err(other("a type")) };
                let Kind::Text(tag) = self.values[tag].kind else { return Err(other("a type")) };
                let plain = |c: char| c.is_ascii_alphanumeric() || "_.[], ".contains(c);
                if tag.len() > 1024 || !tag.chars().all(plain) || tag.contains("torch.classes") {
                    return Err("a type has a name that libtorch gives none".to_owned());
                }
                if !matches!(self.values[value].kind, Kind::List(_) | Kind::Dict) {
                    return Err("a type is said of what is neither a list nor a dictionary".into());
                }
                if tag.matches('[').count() > usize::from(MAX_DEPTH) {
                    return Err("a type is too deep".to_owned());
                }
                self.stack.push(value);
                Ok(())
            }
            Global::OrderedDict | Global::Class | Global::Storage { .. } => {
                Err("something is called that is no function".to_owned())
            }
        }
    }

    fn new_object(&mut self) -> Step<()> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let none = matches!(&self.values[arguments].kind, Kind::Tuple(parts) if parts.is_empty());
        match self.values[class].kind {
            Kind::Global(Global::Class) if none => self.push(Kind::New, 0),
            _ => Err("an object is made of what is no class of the archive".to_owned()),
        }
    }

    fn build(&mut self) -> Step<()> {
        let (attributes, object) = (self.pop()?, self.pop()?);
        let made = matches!(self.values[object].kind, Kind::New);
        if !made || !matches!(self.values[attributes].kind, Kind::Dict) {
            return Err("an object's attributes are no dictionary".to_owned());
        }
        let depth = self.values[attributes].depth + 1;
        self.push(Kind::Object, depth)
    }

    // ---- Tensors ----

    fn storage(&mut self) -> Step<()> {
        let tuple = self.pop()?;
        let Kind::Tuple(parts) = &self.values[tuple].kind else { return Err(other("numbers")) };
        let &[tag, kind, key, device, count] = parts.as_slice() else {
            return Err(other("numbers"));
        };
        let kinds = [tag, kind, key, device, count].map(|part| &self.values[part].kind);
        let [
            Kind::Text("storage"),
            &Kind::Global(Global::Storage { size, truth }),
            &Kind::Text(key),
            Kind::Text(device),
            &Kind::Number(count),
        ] = kinds
        else {
            return Err(other("numbers"));
        };
        // They are put into memory, wherever they were when they were written.
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let index = device.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest));
        if *device != "cpu" && !index.is_some_and(|index| index.len() < 4 && number(index)) {
            return Err(format!("a tensor was on `{}`", short(device)));
        }
        let count = u64::try_from(count).map_err(|_| other("numbers"))?;
        let data = self.numbers.get(key);
        let data = data.ok_or_else(|| format!("there is no entry of numbers `{}`", short(key)))?;
        if count.checked_mul(size) != Some(data.len() as u64) {
            return Err(format!(
                "the entry of numbers `{}` has {} bytes, and is to hold {count} of {size}",
                short(key),
                data.len()
            ));
        }
        if *self.known.entry(key).or_insert((size, count)) != (size, count) {
            return Err(format!("the entry of numbers `{}` is of two types", short(key)));
        }
        // A truth value that is neither 0 nor 1 is one that no processor agrees on.
        if truth && data.iter().any(|&byte| byte > 1) {
            return Err(format!("the entry of numbers `{}` holds no truth values", short(key)));
        }
        self.push(Kind::Storage { count }, 0)
    }

    /// That a tensor lies within its numbers: `(numbers, offset, sizes, strides,
    /// gradient, hooks)`.
    fn tensor(&self, arguments: &[Ref]) -> Step<()> {
        let &[storage, offset, sizes, strides, gradient, hooks] = arguments else {
            return Err(other("a tensor"));
        };
        let kinds = [storage, offset, sizes, strides, gradient, hooks];
        let [
            &Kind::Storage { count },
            &Kind::Number(offset),
            Kind::Tuple(sizes),
            Kind::Tuple(strides),
            Kind::Truth,
            Kind::None,
        ] = kinds.map(|part| &self.values[part].kind)
        else {
            return Err(other("a tensor"));
        };
        if sizes.len() != strides.len() || sizes.len() > MAX_RANK {
            return Err("a tensor's sizes and strides do not fit each other".to_owned());
        }
        let outside = || "a tensor lies outside of its numbers".to_owned();
        let natural = |part: &Ref| match self.values[*part].kind {
            Kind::Number(number) => u64::try_from(number).map_err(|_| outside()),
            _ => Err(other("a tensor")),
        };
        let sizes = sizes.iter().map(natural).collect::<Step<Vec<u64>>>()?;
        let strides = strides.iter().map(natural).collect::<Step<Vec<u64>>>()?;
        let all = sizes.iter().try_fold(1_u64, |all, &size| all.checked_mul(size.max(1)));
        // libtorch counts in 64 bits with a sign, and in bytes.
        if all.is_none_or(|all| all > 1 << 48) {
            return Err(outside());
        }
        let mut last = u64::try_from(offset).map_err(|_| outside())?;
        if sizes.contains(&0) {
            return if last <= count { Ok(()) } else { Err(outside()) };
        }
        for (size, stride) in sizes.iter().zip(&strides) {
            let far = (size - 1).checked_mul(*stride).and_then(|far| far.checked_add(last));
            last = far.ok_or_else(outside)?;
        }
        if last < count { Ok(()) } else { Err(outside()) }
    }
}

fn empty() -> String {
    "it takes from an empty stack".to_owned()
}

fn other(what: &str) -> String {
    format!("{what} is not made as libtorch writes it")
}
