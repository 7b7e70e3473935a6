//! What a pickle may call, and what comes of it: objects of the archive's classes,
//! typed lists, and tensors that lie within their numbers.

use super::{Elements, Global, Kind, MAX_DEPTH, Machine, Ref, Step};
use crate::nn::torchscript::short;

/// The most dimensions of a tensor.
const MAX_RANK: usize = 64;

impl<'a> Machine<'a, '_> {
    pub(super) fn global(&self, module: &'a str, name: &'a str) -> Step<Global> {
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

    pub(super) fn call(&mut self) -> Step<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Kind::Global(global) = self.values[function].kind else {
            return Err("something is called that is not a function".to_owned());
        };
        let Kind::Tuple(arguments) = &self.values[arguments].kind else {
            return Err("a function's arguments are not a tuple".to_owned());
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
                    return Err("a type has a name that libtorch does not write".to_owned());
                }
                if !matches!(self.values[value].kind, Kind::List(_) | Kind::Dict) {
                    return Err("a type tag is on what is neither a list nor a dictionary".into());
                }
                if tag.matches('[').count() > usize::from(MAX_DEPTH) {
                    return Err("a type is too deep".to_owned());
                }
                self.stack.push(value);
                Ok(())
            }
            Global::OrderedDict | Global::Class | Global::Storage { .. } => {
                Err("something is called that is not a function".to_owned())
            }
        }
    }

    pub(super) fn new_object(&mut self) -> Step<()> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let none = matches!(&self.values[arguments].kind, Kind::Tuple(parts) if parts.is_empty());
        match self.values[class].kind {
            Kind::Global(Global::Class) if none => self.push(Kind::New, 0),
            _ => Err("an object is made of what is not a class of the archive".to_owned()),
        }
    }

    pub(super) fn build(&mut self) -> Step<()> {
        let (attributes, object) = (self.pop()?, self.pop()?);
        let made = matches!(self.values[object].kind, Kind::New);
        if !made || !matches!(self.values[attributes].kind, Kind::Dict) {
            return Err("an object's attributes are not a dictionary".to_owned());
        }
        let depth = self.values[attributes].depth + 1;
        self.push(Kind::Object, depth)
    }

    pub(super) fn storage(&mut self) -> Step<()> {
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
                "the entry of numbers `{}` has {} bytes, and should hold {count} of {size}",
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

fn other(what: &str) -> String {
    format!("{what} is not made as libtorch writes it")
}
