//! The files of `src`: none uses another one that uses it, by whatever way round.
//! The sources are read, tests of theirs apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module by the names on the way to it: `src/mqtt/inbox.rs` is `mqtt`, `inbox`.
type Module = Vec<String>;

/// What a file names with `use`, or by a path that begins in the crate.
struct Use {
    /// Others find it here, too.
    public: bool,
    path: Module,
}

#[derive(Default)]
struct Sources {
    code: BTreeMap<Module, String>,
    uses: BTreeMap<Module, Vec<Use>>,
}

/// A file may use those that it stands above or below: a child what its parent
/// has for all children.
#[test]
fn no_files_use_each_other() {
    let uses = Sources::read().edges();
    let reaches = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            for used in uses.get(module).into_iter().flatten() {
                if seen.insert(used.clone()) {
                    next.push(used);
                }
            }
        }
        seen
    };
    let circles: Vec<String> = uses
        .keys()
        .filter(|module| reaches(module).contains(*module))
        .map(|m| m.join("/"))
        .collect();
    assert!(circles.is_empty(), "these files use each other: {}", circles.join(", "));
}

#[test]
fn circles_are_found_in_every_form() {
    let module = |path: &str| path.split('/').map(str::to_owned).collect::<Module>();
    let mut sources = Sources::default();
    for (path, code) in [
        ("a", "pub use one::One;\nmod one;\nmod two;"),
        ("a/one", "use super::{\n    two::Two,\n    three,\n};\npub(super) struct One(Two);"),
        ("a/two", "pub(super) struct Two(crate::b::B);"),
        ("b", "use crate::a::One as Other;\npub struct B(Option<Box<Other>>);"),
        ("c", "use crate::a::two::Two;"),
    ] {
        sources.code.insert(module(path), code.to_owned());
    }
    let edges = sources.edges();
    assert_eq!(edges[&module("a/one")], BTreeSet::from([module("a/two")]));
    assert_eq!(edges[&module("a/two")], BTreeSet::from([module("b")]));
    assert_eq!(edges[&module("b")], BTreeSet::from([module("a/one")]), "by the re-export");
    assert_eq!(edges[&module("c")], BTreeSet::from([module("a/two")]));
    assert!(!edges.contains_key(&module("a")), "a re-export of a child's is no use");
}

impl Sources {
    fn read() -> Sources {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut sources = Sources::default();
        let mut folders = vec![src.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder of the sources") {
                let path = entry.expect("an entry").path();
                let inner = path.strip_prefix(&src).expect("below src").with_extension("");
                let mut module: Module =
                    inner.iter().map(|name| name.to_str().expect("text").to_owned()).collect();
                let name = module.last().expect("a name").clone();
                if name.ends_with("tests") {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    module.retain(|name| name != "mod" && name != "lib");
                    let text = std::fs::read_to_string(&path).expect("a source");
                    sources.code.insert(module, without_tests(&text));
                }
            }
        }
        sources
    }

    /// The files that each file uses, apart from its parents and children.
    fn edges(mut self) -> BTreeMap<Module, BTreeSet<Module>> {
        for (module, code) in &self.code {
            self.uses.insert(module.clone(), self.uses_of(module, code));
        }
        let mut edges = BTreeMap::<Module, BTreeSet<Module>>::new();
        for (module, uses) in &self.uses {
            for Use { path, .. } in uses {
                let used = self.defined_in(path.clone());
                if !used.starts_with(module) && !module.starts_with(&used) {
                    edges.entry(module.clone()).or_default().insert(used);
                }
            }
        }
        edges
    }

    /// The file that has what a path leads to, by re-exports too.
    fn defined_in(&self, mut path: Module) -> Module {
        // More re-exports of one item in a row are none of ours.
        for _ in 0..8 {
            let file = self.file(&path);
            let Some(item) = path.get(file.len()) else { return file };
            let passed_on = self.uses.get(&file).into_iter().flatten().find(|other| {
                other.public && other.path.last() == Some(item) && self.file(&other.path) != file
            });
            match passed_on {
                Some(other) => path.clone_from(&other.path),
                None => return file,
            }
        }
        self.file(&path)
    }

    /// The longest part of a path that is a file.
    fn file(&self, path: &Module) -> Module {
        let lengths = (0..=path.len()).rev();
        let is_file = |length: &usize| self.code.contains_key(&path[..*length]);
        path[..lengths.into_iter().find(is_file).unwrap_or(0)].to_vec()
    }

    fn uses_of(&self, module: &Module, code: &str) -> Vec<Use> {
        let mut uses = Vec::new();
        let mut add = |public: bool, path: &str| {
            let mut names: Vec<&str> = path.split("::").map(str::trim).collect();
            if let Some(last) = names.last_mut() {
                *last = last.split(" as ").next().unwrap_or_default();
            }
            let mut from = match names[0] {
                "crate" => Vec::new(),
                "self" | "super" => module.clone(),
                child
                    if self
                        .code
                        .contains_key(&[module.as_slice(), &[child.to_owned()]].concat()) =>
                {
                    names.insert(0, "self");
                    module.clone()
                }
                _ => return,
            };
            while names.first() == Some(&"super") {
                from.pop();
                names.remove(0);
            }
            if matches!(names.first(), Some(&"crate" | &"self")) {
                names.remove(0);
            }
            from.extend(names.into_iter().map(str::to_owned));
            uses.push(Use { public, path: from });
        };
        let mut rest = String::new();
        for statement in code.split_inclusive(';') {
            let start = statement
                .lines()
                .scan(0, |at, line| {
                    let begin = *at;
                    *at += line.len() + 1;
                    Some((begin, line.trim_start()))
                })
                .filter(|(_, line)| line.starts_with("use ") || line.starts_with("pub"))
                .filter(|(_, line)| {
                    line.split_once("use ").is_some_and(|(front, _)| {
                        front.is_empty()
                            || front.trim_end() == "pub"
                            || front.trim_end().ends_with(')')
                    })
                })
                .last();
            match start {
                Some((begin, line)) => {
                    let tree = statement[begin..].split_once("use ").map_or("", |(_, tree)| tree);
                    for path in paths(tree.trim_end_matches(';')) {
                        add(line.starts_with("pub"), &path);
                    }
                    rest.push_str(&statement[..begin]);
                }
                None => rest.push_str(statement),
            }
        }
        for word in rest.split(|c: char| !is_name(c) && c != ':') {
            if ["crate::", "super::", "self::"].iter().any(|start| word.starts_with(start)) {
                add(false, word.trim_end_matches(':'));
            }
        }
        uses
    }
}

/// The paths of what stands behind `use`, those in braces each.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((front, list)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                parts.last_mut().expect("one at least").push(c);
            }
        }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| paths(&format!("{front}{}", part.trim()))).collect()
}

/// The code without comments and without the unit tests at its end.
fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].starts_with("#[cfg(") && pair[0].contains("test") && pair[1].ends_with("tests {")
    });
    let code = lines[..tests.unwrap_or(lines.len())].iter();
    code.filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
