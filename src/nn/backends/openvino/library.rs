//! Where OpenVINO's C library may be: a list of places in a fixed order.
//!
//! Only looks at folders. It neither loads a library nor reads the
//! environment: that comes as a [`SearchEnv`].

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// What the environment says of places where libraries are.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SearchEnv {
    /// The program's own file.
    pub executable: Option<PathBuf>,
    /// Variables of [`SearchEnv::VARIABLES`] that are set, with their values.
    #[serde(deserialize_with = "known_variables")]
    pub variables: Vec<(&'static str, OsString)>,
}

/// Those of [`SearchEnv::VARIABLES`] alone.
fn known_variables<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Vec<(&'static str, OsString)>, D::Error> {
    let variables: Vec<(String, OsString)> = serde::Deserialize::deserialize(from)?;
    let known = |(name, value): (String, OsString)| {
        let known = SearchEnv::VARIABLES.iter().find(|known| **known == name)?;
        Some((*known, value))
    };
    Ok(variables.into_iter().filter_map(known).collect())
}

impl SearchEnv {
    /// The variables that matter.
    pub const VARIABLES: &'static [&'static str] = &[
        "OPENVINO_INSTALL_DIR",
        "INTEL_OPENVINO_DIR",
        "LD_LIBRARY_PATH",
        "DYLD_LIBRARY_PATH",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "PYENV_ROOT",
        "PATH",
        "HOME",
    ];

    /// What `lookup` (such as `std::env::var_os`) knows of the variables.
    pub fn from_lookup(
        executable: Option<PathBuf>,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> SearchEnv {
        let set = |&name: &&'static str| {
            lookup(name).filter(|value| !value.is_empty()).map(|value| (name, value))
        };
        SearchEnv { executable, variables: SearchEnv::VARIABLES.iter().filter_map(set).collect() }
    }

    /// The folders that a variable lists.
    pub(in crate::nn) fn paths(&self, name: &str) -> Vec<PathBuf> {
        let value = self.variables.iter().find(|(variable, _)| *variable == name);
        let paths = value.map(|(_, value)| std::env::split_paths(value).collect::<Vec<_>>());
        // A relative path depends on where the worker was started.
        paths.unwrap_or_default().into_iter().filter(|path| path.is_absolute()).collect()
    }
}

/// Folders below an unpacked archive of OpenVINO.
const ARCHIVE: &[&str] = &[
    "",
    "lib",
    "libs",
    "openvino/libs",
    #[cfg(target_arch = "x86_64")]
    "runtime/lib/intel64",
    #[cfg(target_arch = "x86_64")]
    "runtime/lib/intel64/Release",
    #[cfg(target_arch = "aarch64")]
    "runtime/lib/aarch64",
    #[cfg(target_arch = "aarch64")]
    "runtime/lib/aarch64/Release",
    #[cfg(target_arch = "aarch64")]
    "runtime/lib/arm64",
    #[cfg(target_arch = "aarch64")]
    "runtime/lib/arm64/Release",
    #[cfg(target_arch = "arm")]
    "runtime/lib/armv7l",
];

/// Where the system's packages put libraries, and archives by default.
#[cfg(not(target_os = "macos"))]
const SYSTEM: &[&str] = &[
    "/usr/local/lib",
    "/usr/local/lib64",
    #[cfg(target_arch = "x86_64")]
    "/usr/lib/x86_64-linux-gnu",
    #[cfg(target_arch = "aarch64")]
    "/usr/lib/aarch64-linux-gnu",
    #[cfg(target_arch = "arm")]
    "/usr/lib/arm-linux-gnueabihf",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
];
#[cfg(target_os = "macos")]
const SYSTEM: &[&str] = &[
    "/usr/local/lib",
    "/opt/homebrew/lib",
    "/opt/homebrew/opt/openvino/lib",
    "/usr/local/opt/openvino/lib",
];

/// Where archives are unpacked by their instructions.
const UNPACKED: &[&str] = &["/opt/intel/openvino*", "/opt/openvino*"];

/// Calls `load` with each library that is found, in order, until one loads.
///
/// # Errors
///
/// One sentence: what was found and why it would not do, which `load` says, and
/// how to install it.
pub(super) fn find<T>(
    explicit: Option<&Path>,
    env: &SearchEnv,
    mut load: impl FnMut(&Path) -> Result<T, String>,
) -> Result<T, String> {
    if let Some(path) = explicit {
        let file = match path.is_dir() {
            false => path.to_owned(),
            true => libraries(path).into_iter().next().ok_or_else(|| {
                format!(
                    "the folder `{}`, which was set for OpenVINO, has no `libopenvino_c`",
                    path.display()
                )
            })?,
        };
        return load(&file)
            .map_err(|error| format!("{error}; it was set, so no other place was looked at"));
    }
    let places = places(env);
    let mut unfit = Vec::new();
    for place in &places {
        for dir in expand(place) {
            for file in libraries(&dir) {
                match load(&file) {
                    Ok(loaded) => return Ok(loaded),
                    Err(error) => unfit.push(error),
                }
            }
        }
    }
    unfit.dedup();
    let found = match unfit.as_slice() {
        [] => "OpenVINO was not found".to_owned(),
        unfit => unfit.join("; "),
    };
    Err(format!(
        "{found}: `pip install openvino` installs it, PROPLET_OPENVINO_LIB (--openvino-lib) names \
         one that is elsewhere, `proplet doctor` lists the {} places that were looked at",
        places.len()
    ))
}

/// Where [`find`] looks, on this system and with this environment.
pub(super) fn looked(explicit: Option<&Path>, env: &SearchEnv) -> Vec<PathBuf> {
    explicit.map_or_else(|| places(env), |path| vec![path.to_owned()])
}

/// The folders that have to be readable for what [`find`] may load: those with a
/// C library and what comes beside it. None is loaded.
pub(super) fn folders(explicit: Option<&Path>, env: &SearchEnv) -> Vec<PathBuf> {
    let found: Vec<PathBuf> = match explicit {
        Some(dir) if dir.is_dir() => libraries(dir),
        Some(file) => vec![file.to_owned()],
        None => {
            let dirs = places(env).into_iter().flat_map(|place| expand(&place));
            dirs.flat_map(|dir| libraries(&dir)).collect()
        }
    };
    // Where a link leads to, too.
    let files = found.into_iter().flat_map(|file| [file.canonicalize().ok(), Some(file)]).flatten();
    let mut folders: Vec<_> = files.filter_map(|file| file.parent().map(archive)).collect();
    // What it depends on in turn is found by them.
    folders.extend(env.paths("LD_LIBRARY_PATH"));
    folders.sort();
    folders.dedup();
    folders
}

/// An archive has libraries of others in `runtime/3rdparty`, beside its own in
/// `runtime/lib`.
fn archive(folder: &Path) -> PathBuf {
    let runtime = folder.ancestors().find(|dir| dir.file_name().is_some_and(|it| it == "runtime"));
    runtime.unwrap_or(folder).to_owned()
}

/// The places in order, each once. A component may end in `*`.
fn places(env: &SearchEnv) -> Vec<PathBuf> {
    let mut places = Vec::new();
    for name in ["OPENVINO_INSTALL_DIR", "INTEL_OPENVINO_DIR"] {
        for dir in env.paths(name) {
            places.extend(ARCHIVE.iter().map(|below| join(&dir, below)));
        }
    }
    places.extend(env.paths("LD_LIBRARY_PATH"));
    if cfg!(target_os = "macos") {
        places.extend(env.paths("DYLD_LIBRARY_PATH"));
    }
    let above = env.executable.iter().flat_map(|file| file.ancestors().skip(1));
    places.extend(above.map(|dir| dir.join("openvino/libs")));
    places.extend(python(env).into_iter().map(|site| site.join("openvino/libs")));
    places.extend(SYSTEM.iter().map(PathBuf::from));
    for dir in UNPACKED {
        places.extend(ARCHIVE.iter().map(|below| join(Path::new(dir), below)));
    }
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}

/// The folders where Python's packages are.
fn python(env: &SearchEnv) -> Vec<PathBuf> {
    let mut sites = env.paths("PYTHONPATH");
    let mut prefixes = env.paths("VIRTUAL_ENV");
    prefixes.extend(env.paths("CONDA_PREFIX"));
    prefixes.extend(env.paths("PYENV_ROOT").iter().map(|root| root.join("versions/*")));
    // A prefix whose programs are on the path, such as an activated one.
    prefixes.extend(env.paths("PATH").iter().filter_map(|bin| bin.parent()).map(Path::to_owned));
    for home in env.paths("HOME") {
        prefixes.push(home.join(".local"));
        prefixes.push(home.join(".pyenv/versions/*"));
        if cfg!(target_os = "macos") {
            sites.push(home.join("Library/Python/3*/lib/python/site-packages"));
        }
    }
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
    if cfg!(target_os = "macos") {
        prefixes.push("/opt/homebrew".into());
        prefixes.push("/Library/Frameworks/Python.framework/Versions/3*".into());
    }
    for prefix in prefixes {
        sites.push(prefix.join("lib/python3*/site-packages"));
        sites.push(prefix.join("lib/python3*/dist-packages"));
    }
    sites
}

// Joining with the empty path would add a slash.
fn join(dir: &Path, below: &str) -> PathBuf {
    if below.is_empty() { dir.to_owned() } else { dir.join(below) }
}

/// The folders that a place stands for: components that end in `*` are
/// looked up, the last in the order of versions first.
fn expand(place: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![PathBuf::new()];
    for component in place {
        let Some(prefix) = component.to_str().and_then(|name| name.strip_suffix('*')) else {
            for dir in &mut dirs {
                dir.push(component);
            }
            continue;
        };
        dirs = dirs.iter().flat_map(|dir| beginning_with(dir, prefix)).collect();
    }
    dirs
}

fn beginning_with(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        names(dir).into_iter().filter(|name| name.starts_with(prefix)).collect();
    found.sort_by_key(|name| std::cmp::Reverse(version(name)));
    found.into_iter().map(|name| dir.join(name)).collect()
}

/// The C libraries of a folder: the one without a version first (someone chose
/// it), then the newest.
fn libraries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = names(dir).into_iter().filter(|name| is_library(name)).collect();
    let plain = |name: &str| matches!(name, "libopenvino_c.so" | "libopenvino_c.dylib");
    found.sort_by_key(|name| (!plain(name), std::cmp::Reverse(version(name))));
    found.into_iter().map(|name| dir.join(name)).collect()
}

/// `libopenvino_c.so`, `….so.2641`, `….so.2026.4.1`, `libopenvino_c.dylib`,
/// `libopenvino_c.2641.dylib`.
fn is_library(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libopenvino_c.") else { return false };
    let version = match rest.strip_suffix("dylib") {
        Some(version) => version.strip_suffix('.'),
        None => match rest.strip_prefix("so") {
            Some("") => return true,
            Some(version) => version.strip_prefix('.'),
            None => return false,
        },
    };
    match version {
        Some(version) => version
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())),
        None => rest == "dylib",
    }
}

/// The numbers in a name.
fn version(name: &str) -> Vec<u64> {
    let numbers = name.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    numbers.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests;
