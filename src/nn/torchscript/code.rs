//! The code of an archive, read as far as it takes to know what it calls and
//! that nothing is computed while it is read.
//!
//! libtorch compiles code when it loads an archive, and computes what it can on
//! the way: default values of arguments, and calls whose arguments are
//! constants. So each call here is of a method of the archive, of a word of the
//! language, or of an operator of the list; default values are literals; and
//! what libtorch itself never writes (comments, `lambda`, `del`) is refused,
//! so that both read the same.

mod tokens;

pub(in crate::nn) use tokens::{MAX_DEPTH, MAX_LINE};

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use super::{operators, refused, short};
use crate::nn::refusal::Refusal;
use tokens::{Found, Token, tokens};

/// Bytes of all code.
const MAX_CODE: usize = 16 << 20;
/// Each may be in the one before; libtorch frees them by recursion.
const MAX_CLASSES: usize = 10_000;

/// Words of the language that stand before a bracket as a function does.
const WORDS: &[&str] = &[
    "abs",
    "annotate",
    "bool",
    "float",
    "getattr",
    "int",
    "isinstance",
    "len",
    "list",
    "max",
    "min",
    "range",
    "str",
    "tuple",
    "unchecked_cast",
    "uninitialized",
];
/// Words before a bracket that is none of a call.
const BEFORE: &[&str] =
    &["and", "assert", "elif", "else", "if", "in", "is", "not", "or", "return", "while", "with"];

/// Proves all code, and says which classes it has.
pub(super) fn prove(code: &BTreeMap<String, Cow<'_, [u8]>>) -> Result<HashSet<String>, Refusal> {
    let bytes: usize = code.values().map(|file| file.len()).sum();
    if bytes > MAX_CODE {
        return Err(Refusal::too_large(format!(
            "the TorchScript archive has {bytes} bytes of code, more than {MAX_CODE}"
        )));
    }
    let mut files = Vec::new();
    let (mut classes, mut methods) = (HashSet::new(), HashSet::new());
    for (name, file) in code {
        let module = module(name)?;
        let tokens = tokens(file).map_err(|(line, error)| {
            refused(format!("line {line} of `{}`: {error}", short(name)))
        })?;
        for pair in tokens.windows(2) {
            match pair {
                [Token::Name("class"), Token::Name(class)] => {
                    classes.insert(format!("{module}.{class}"));
                }
                [Token::Name("def"), Token::Name(method)] => {
                    methods.insert(*method);
                }
                _ => {}
            }
        }
        files.push((name, tokens));
    }
    if classes.len() > MAX_CLASSES {
        return Err(Refusal::too_large(format!(
            "the TorchScript archive has more than {MAX_CLASSES} classes"
        )));
    }
    for (name, tokens) in &files {
        let file = File { methods: &methods, functions: HashSet::new(), within: Within::Module };
        file.prove(tokens).map_err(|(line, error)| {
            refused(format!("line {line} of `{}`: {error}", short(name)))
        })?;
    }
    Ok(classes)
}

/// `code/__torch__/a/b.py` has `__torch__.a.b`.
fn module(name: &str) -> Result<String, Refusal> {
    let path = name.strip_prefix("code/").and_then(|path| path.strip_suffix(".py"));
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let path = path.filter(|path| path.split('/').all(is_name) && path.starts_with("__torch__"));
    let path = path.ok_or_else(|| refused(format!("`{}` is not a code file", short(name))))?;
    let module = path.replace('/', ".");
    match module.contains("torch.classes") {
        true => Err(refused(format!("`{}` is a class of libtorch's own", short(name)))),
        false => Ok(module),
    }
}

/// What a line belongs to.
#[derive(Clone, Copy)]
enum Within {
    Module,
    /// A class, whose own lines have so many blanks once one was seen.
    Class(Option<usize>),
    /// A function of the file's.
    Function,
}

struct File<'a> {
    methods: &'a HashSet<&'a str>,
    /// Names that the method which is read has for functions of the archive.
    functions: HashSet<&'a str>,
    within: Within,
}

impl<'a> File<'a> {
    fn prove(mut self, tokens: &[Token<'a>]) -> Found<()> {
        let mut rest = tokens;
        let (mut indent, mut number) = (0, 1);
        while !rest.is_empty() {
            let end = rest.iter().position(|token| matches!(token, Token::Line(..)));
            let (line, more) = rest.split_at(end.unwrap_or(rest.len()));
            if line.first() == Some(&Token::Name("def")) {
                self.functions = functions(indent, rest);
            }
            self.line(indent, line).map_err(|error| (number, error))?;
            match more.split_first() {
                Some((Token::Line(blanks, line), more)) => {
                    (indent, number, rest) = (*blanks, *line, more);
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn line(&mut self, indent: usize, line: &[Token<'_>]) -> Result<(), String> {
        let Some(&first) = line.first() else { return Ok(()) };
        if indent == 0 {
            self.within = match first {
                Token::Name("class") => {
                    let base = line.get(3);
                    let plain = matches!(base, None | Some(Token::Sign(')')));
                    if !plain && !matches!(base, Some(Token::Name("Module" | "NamedTuple"))) {
                        return Err("a class is neither a module nor a tuple".to_owned());
                    }
                    Within::Class(None)
                }
                Token::Name("def") => Within::Function,
                _ => Within::Module,
            };
            return match self.within {
                Within::Class(_) => Ok(()),
                Within::Function => self.head(line),
                Within::Module => literal(line, "a line of the file"),
            };
        }
        match &mut self.within {
            Within::Module => Err("a line belongs to nothing".to_owned()),
            Within::Function => self.body(line),
            Within::Class(own) => {
                let within = *own.get_or_insert(indent);
                match first {
                    _ if indent > within => self.body(line),
                    Token::Name("def") => self.head(line),
                    _ => self.attribute(line),
                }
            }
        }
    }

    /// `def name(self, x: Tensor, n: int=1) -> Tensor:`
    fn head(&self, line: &[Token<'_>]) -> Result<(), String> {
        let Some(Token::Name(name)) = line.get(1) else {
            return Err("a method has no name".to_owned());
        };
        if *name == "__setstate__" || *name == "__getstate__" {
            return Err(format!("`{name}` would run while the archive is loaded"));
        }
        if !operators::is_method(name) {
            return Err(format!("a method has the name of an operator on texts, `{name}`"));
        }
        if line.last() != Some(&Token::Sign(':')) {
            return Err("a method stands in one line".to_owned());
        }
        // Its own brackets, in which nothing is called.
        for (at, pair) in line.windows(2).enumerate().skip(2) {
            if let [Token::Name(_) | Token::Sign(')' | ']'), Token::Sign('(')] = pair {
                return Err(format!("a default value of `{}` is computed", short(name)));
            }
            if pair[0] != Token::Sign('=') {
                continue;
            }
            let rest = &line[at + 1..];
            let mut depth = 0;
            let end = rest.iter().position(|token| {
                match token {
                    Token::Sign('(' | '[') => depth += 1,
                    Token::Sign(')' | ']') => depth -= 1,
                    _ => {}
                }
                depth < 0 || (depth == 0 && *token == Token::Sign(','))
            });
            let value = &rest[..end.unwrap_or(rest.len())];
            // A tensor of `constants.pkl`.
            if let [Token::Name("CONSTANTS"), Token::Sign('.'), Token::Name(_)] = value {
                continue;
            }
            literal(value, &format!("a default value of `{}`", short(name)))?;
        }
        self.classes(line)
    }

    /// `weight : Tensor`, `stride : Final[int] = 2`, `__parameters__ = ["weight", ]`: libtorch
    /// takes other lines for one of these.
    fn attribute(&self, line: &[Token<'_>]) -> Result<(), String> {
        const LISTS: [&str; 4] =
            ["__parameters__", "__buffers__", "__forward_hooks__", "__forward_pre_hooks__"];
        let is_list = |value: &[Token<'_>]| {
            let [Token::Sign('['), names @ .., Token::Sign(']')] = value else { return false };
            names.iter().enumerate().all(|(at, token)| match at % 2 {
                0 => *token == Token::Text,
                _ => *token == Token::Sign(','),
            })
        };
        let plain = match line {
            [Token::Name("pass")] => true,
            [Token::Name(name), Token::Sign('='), value @ ..] if LISTS.contains(name) => {
                is_list(value)
            }
            [
                Token::Name("__annotations__"),
                Token::Sign('['),
                Token::Text,
                Token::Sign(']'),
                Token::Sign('='),
                ty @ ..,
            ] => is_type(ty),
            [Token::Name(_), Token::Sign(':'), rest @ ..] => {
                let value = rest.iter().position(|token| *token == Token::Sign('='));
                if let Some(at) = value {
                    literal(&rest[at + 1..], "an attribute of a class")?;
                }
                is_type(&rest[..value.unwrap_or(rest.len())])
                    && value.is_none_or(|at| at + 1 < rest.len())
            }
            _ => false,
        };
        match plain {
            true => self.classes(line),
            false => Err("a line of a class is not written as libtorch does".to_owned()),
        }
    }

    fn body(&self, line: &[Token<'_>]) -> Result<(), String> {
        if let Some(Token::Name(word @ ("def" | "class" | "import"))) = line.first() {
            return Err(format!("there is a `{word}` in a method"));
        }
        self.classes(line)?;
        // What is called by such a name then would be something else.
        for pair in line.windows(2) {
            match pair {
                [Token::Name(word), Token::Sign('=' | ',')] if WORDS.contains(word) => {
                    return Err(format!("a value is called `{word}`, a word of the language"));
                }
                [Token::Name(_) | Token::Sign(','), _] => {}
                _ => break,
            }
        }
        for (at, token) in line.iter().enumerate().skip(1) {
            if *token == Token::Sign('(') {
                self.call(&line[..at])?;
            }
        }
        Ok(())
    }

    /// Classes of libtorch's own come with code of theirs.
    fn classes(&self, line: &[Token<'_>]) -> Result<(), String> {
        let of = |three: &[Token<'_>]| {
            three == [Token::Name("torch"), Token::Sign('.'), Token::Name("classes")]
        };
        match line.windows(3).find(|three| of(three)) {
            Some(_) => Err("it has a class of libtorch's own (`torch.classes`)".to_owned()),
            None => Ok(()),
        }
    }

    /// What stands before a bracket: nothing to call, or a function by its name.
    fn call(&self, before: &[Token<'_>]) -> Result<(), String> {
        let name = match before.last() {
            Some(Token::Name(word)) if BEFORE.contains(word) => return Ok(()),
            Some(Token::Name(name)) => *name,
            Some(Token::Sign(')' | ']' | '}') | Token::Text | Token::Number) => {
                return Err("what is called has no name".to_owned());
            }
            _ => return Ok(()),
        };
        // Backwards along the points.
        let (mut path, mut at) = (vec![name], before.len() - 1);
        let mut of_value = false;
        while at >= 1 && before[at - 1] == Token::Sign('.') {
            match before.get(at.wrapping_sub(2)) {
                Some(Token::Name(name)) => path.push(name),
                _ => {
                    of_value = true;
                    break;
                }
            }
            at -= 2;
        }
        path.reverse();
        let refuse = || Err(format!("it calls `{}`, which is not allowed", short(&path.join("."))));
        let of_archive = |name: &str| self.methods.contains(name);
        match path.as_slice() {
            [word] if !of_value => match WORDS.contains(word) || self.functions.contains(*word) {
                true => Ok(()),
                false => refuse(),
            },
            ["torch", operator] if !of_value => match operators::is_allowed("aten", operator) {
                true => Ok(()),
                false => refuse(),
            },
            ["torch", ..] if !of_value => refuse(),
            ["ops", namespace, operator] if !of_value => {
                match operators::is_allowed(namespace, operator) {
                    true => Ok(()),
                    false => refuse(),
                }
            }
            ["ops", ..] if !of_value => refuse(),
            ["__torch__", ..] if !of_value => Ok(()),
            [.., name] => match of_archive(name) || operators::is_allowed("aten", name) {
                true => Ok(()),
                false => refuse(),
            },
            [] => refuse(),
        }
    }
}

/// The names that a method, whose first line has this indent, gives to functions of the
/// archive and uses for nothing else: `_0 = __torch__.torch.nn.functional.relu`.
fn functions<'a>(indent: usize, tokens: &[Token<'a>]) -> HashSet<&'a str> {
    let ends = |token: &Token<'_>| matches!(token, Token::Line(blanks, _) if *blanks <= indent);
    let end = tokens.iter().position(ends).unwrap_or(tokens.len());
    let (mut found, mut others) = (HashSet::new(), HashSet::new());
    for line in tokens[..end].split(|token| matches!(token, Token::Line(..))) {
        if let [Token::Name(name), Token::Sign('='), Token::Name("__torch__"), path @ ..] = line
            && !path.is_empty()
            && path.chunks(2).all(|part| matches!(part, [Token::Sign('.'), Token::Name(_)]))
        {
            found.insert(*name);
            continue;
        }
        for (at, token) in line.iter().enumerate() {
            let Token::Name(name) = token else { continue };
            let of_value = at > 0 && line[at - 1] == Token::Sign('.');
            if !of_value && line.get(at + 1) != Some(&Token::Sign('(')) {
                others.insert(*name);
            }
        }
    }
    found.retain(|name| !others.contains(name));
    found
}

/// `Tensor`, `Optional[List[int]]`, `__torch__.a.B`.
fn is_type(tokens: &[Token<'_>]) -> bool {
    let is = |token: &Token<'_>| match token {
        Token::Name(_) => true,
        Token::Sign(sign) => "[],.".contains(*sign),
        _ => false,
    };
    matches!(tokens.first(), Some(Token::Name(_))) && tokens.iter().all(is)
}

/// That a value is one, and nothing has to be computed for it.
fn literal(value: &[Token<'_>], what: &str) -> Result<(), String> {
    let is = |token: &Token<'_>| match token {
        Token::Number | Token::Text => true,
        Token::Name(name) => ["True", "False", "None"].contains(name),
        Token::Sign(sign) => "()[],-".contains(*sign),
        Token::Line(..) => false,
    };
    let value = match value {
        // `op_version_set = 1`, and what else a file says of itself.
        [Token::Name(_), Token::Sign('='), value @ ..] => value,
        [Token::Name("import"), rest @ ..] => {
            let path = |token: &Token<'_>| matches!(token, Token::Name(_) | Token::Sign('.'));
            return match rest.iter().all(path) {
                true => Ok(()),
                false => Err(format!("{what} is computed")),
            };
        }
        value => value,
    };
    match value.iter().all(is) {
        true => Ok(()),
        false => Err(format!("{what} is computed")),
    }
}
