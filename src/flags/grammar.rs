//! What a flag of `wasmtime run` and an option of its groups are: the rows of
//! the tables in [`super::options`].

/// One of the groups of options, `-S nn=y,tcp=n` and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OptionGroup {
    /// `-S`, `--wasi`.
    Wasi,
    /// `-W`, `--wasm`.
    Wasm,
    /// `-O`, `--optimize`.
    Optimize,
    /// `-C`, `--codegen`.
    Codegen,
    /// `-D`, `--debug`.
    Debug,
}

impl OptionGroup {
    pub(super) fn letter(self) -> char {
        match self {
            OptionGroup::Wasi => 'S',
            OptionGroup::Wasm => 'W',
            OptionGroup::Optimize => 'O',
            OptionGroup::Codegen => 'C',
            OptionGroup::Debug => 'D',
        }
    }
}

/// What a flag is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Flag {
    Group(OptionGroup),
    Dir,
    MapDir,
    Env,
    Invoke,
    Addr,
    Port,
    WasiModules,
    Help,
    /// Known to some `wasmtime run`, and why not here.
    Unsupported(&'static str),
}

/// A flag with the names it goes by.
#[derive(Debug)]
pub(super) struct FlagDesc {
    pub(super) names: &'static [&'static str],
    pub(super) flag: Flag,
    /// The form of its value.
    pub(super) value: &'static str,
    pub(super) help: &'static str,
}

/// What stands behind an option's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Switch,
    Integer,
    Duration,
    Text,
    Graph,
}

impl Shape {
    /// As `wasmtime run -S help` writes it.
    pub(super) fn form(self) -> &'static str {
        match self {
            Shape::Switch => "[=y|n]",
            Shape::Integer => "=N",
            Shape::Duration => "=N|Ns|Nms|..",
            Shape::Text => "=val",
            Shape::Graph => "=<format>::<dir>",
        }
    }
}

/// What an option does here.
#[derive(Clone, Copy, Debug)]
pub(super) enum OptionEffect {
    Nn,
    Graph,
    Timeout,
    MaxMemory,
    MaxStack,
    /// Reaches the host: the policy decides.
    Host,
    /// Changes nothing that a task could tell, or the engine that all share.
    Ignored,
    /// Would change what the task means, and can't be had: why.
    Refused(&'static str),
    /// Likewise for switching it off.
    AlwaysOn(&'static str),
}

/// An option of a group.
#[derive(Debug)]
pub(super) struct OptionDesc {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) effect: OptionEffect,
    pub(super) help: &'static str,
}

pub(super) const fn option(
    name: &'static str,
    shape: Shape,
    effect: OptionEffect,
    help: &'static str,
) -> OptionDesc {
    OptionDesc { name, shape, effect, help }
}

pub(super) const fn unsupported(names: &'static [&'static str], why: &'static str) -> FlagDesc {
    FlagDesc { names, flag: Flag::Unsupported(why), value: "", help: "" }
}
