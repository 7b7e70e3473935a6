//! Pickles of a module and its constants: the machine that makes their values,
//! as strict as what libtorch writes.
//!
//! libtorch's own machine believes what it reads: that the stack is not empty,
//! that a number on it names one of its functions, that a tensor's sizes lie
//! within its numbers. This one has the same instructions, makes nothing but
//! kinds of values, and refuses what libtorch would have to be trusted with.

mod objects;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// The most values of a pickle, and how deep they may be in each other.
const MAX_VALUES: usize = 2_000_000;
const MAX_DEPTH: u16 = 64;

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
            _ => return Err("something is appended to what is not a new list".to_owned()),
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
}

fn empty() -> String {
    "it takes from an empty stack".to_owned()
}
