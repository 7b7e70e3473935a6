//! Where the worker's library for libtorch may be. It only looks; see
//! [`super::native`] for what opens it.

use std::path::{Path, PathBuf};

use crate::nn::backends::openvino::SearchEnv;

/// The file that build.rs makes.
const FILE: &str =
    if cfg!(target_os = "macos") { "libproplet_torch.dylib" } else { "libproplet_torch.so" };

/// Where packages and images put it.
const SYSTEM: &[&str] = &[
    "/usr/local/lib/proplet",
    "/usr/local/lib",
    "/usr/lib/proplet",
    "/usr/lib",
    "/opt/proplet/lib",
];

/// Folders of libtorch that the library was linked against, where it is not the
/// system's.
#[cfg(feature = "pytorch")]
const LINKED: Option<&str> = option_env!("PROPLET_LIBTORCH");
#[cfg(not(feature = "pytorch"))]
const LINKED: Option<&str> = None;

/// Calls `load` with each file that is found, in order, until one loads.
///
/// # Errors
///
/// One sentence: every place that was looked at, what was found there and why it
/// would not do, and what to do.
pub(super) fn find<T>(
    explicit: Option<&Path>,
    env: &SearchEnv,
    mut load: impl FnMut(&Path) -> Result<T, String>,
) -> Result<T, String> {
    if let Some(path) = explicit {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let there = file.is_file().then_some(()).ok_or_else(|| "there is no such file".to_owned());
        return there.and_then(|()| load(&file)).map_err(|error| {
            format!(
                "the library for libtorch that was set, `{}`, can't be used: {error}; no other \
                 place was looked at",
                file.display()
            )
        });
    }
    let (mut looked, mut unfit) = (Vec::new(), Vec::new());
    for place in places(env) {
        let file = place.join(FILE);
        if file.is_file() {
            match load(&file) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => unfit.push(format!("`{}` can't be used: {error}", file.display())),
            }
        }
        looked.push(place.display().to_string());
    }
    let (found, cure) = match unfit.as_slice() {
        [] => (
            String::new(),
            format!("put the `{FILE}` that `cargo build --features pytorch` makes beside the program"),
        ),
        unfit => (
            format!(" ({})", unfit.join("; ")),
            "install the libtorch that it was built with (Debian: apt-get install libtorch-dev), or \
             name that library's folder in LD_LIBRARY_PATH"
                .to_owned(),
        ),
    };
    Err(format!(
        "PyTorch can't be used, for the worker's library for libtorch was not found{found}: {cure}, or \
         name it with --torch-lib or PROPLET_TORCH_LIB; looked for it in {}",
        looked.join(", ")
    ))
}

/// The folders that have to be readable for what [`find`] may load.
pub(in crate::nn) fn folders(explicit: Option<&Path>, env: &SearchEnv) -> Vec<PathBuf> {
    let found: Vec<PathBuf> = match explicit {
        Some(dir) if dir.is_dir() => vec![dir.join(FILE)],
        Some(file) => vec![file.to_owned()],
        None => places(env).into_iter().map(|place| place.join(FILE)).collect(),
    };
    let found = found.into_iter().filter(|file| file.is_file());
    let files = found.flat_map(|file| [file.canonicalize().ok(), Some(file)]).flatten();
    let mut folders: Vec<_> = files.filter_map(|file| Some(file.parent()?.to_owned())).collect();
    if !folders.is_empty() {
        folders.extend(LINKED.map(PathBuf::from));
    }
    folders.sort();
    folders.dedup();
    folders
}

fn places(env: &SearchEnv) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    let beside = env.executable.iter().flat_map(|file| file.ancestors().skip(1).take(2));
    places.extend(beside.map(Path::to_owned));
    let prefix = env.executable.as_deref().and_then(Path::parent).and_then(Path::parent);
    places.extend(prefix.map(|prefix| prefix.join("lib/proplet")));
    places.extend(env.paths("LD_LIBRARY_PATH"));
    places.extend(env.paths("DYLD_LIBRARY_PATH"));
    places.extend(SYSTEM.iter().map(PathBuf::from));
    let mut seen = std::collections::HashSet::new();
    places.retain(|place| seen.insert(place.clone()));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(executable: &Path) -> SearchEnv {
        SearchEnv { executable: Some(executable.to_owned()), ..SearchEnv::default() }
    }

    fn no<T>(_: &Path) -> Result<T, String> {
        Err("it is not a library".to_owned())
    }

    #[test]
    fn it_lies_beside_the_program_or_where_a_setting_says() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(FILE);
        std::fs::write(&file, "").expect("written");
        let env = env(&dir.path().join("deps/program"));
        let found = find(None, &env, |path| Ok(path.to_owned()));
        assert_eq!(found.as_ref(), Ok(&file));
        assert!(folders(None, &env).contains(&dir.path().to_owned()));
        for explicit in [dir.path(), &file] {
            assert_eq!(find(Some(explicit), &env, |path| Ok(path.to_owned())), found);
            let text = find::<()>(Some(explicit), &env, no).expect_err("it does not load");
            assert!(text.contains("it is not a library; no other place was looked at"), "{text}");
        }
        let text = find::<()>(None, &env, no).expect_err("it does not load");
        assert!(
            text.contains("can't be used: it is not a library") && text.contains("libtorch-dev"),
            "{text}"
        );
    }

    #[test]
    fn where_it_was_looked_for_is_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let text =
            find::<()>(None, &env(&dir.path().join("bin/proplet")), no).expect_err("nothing");
        let prefix = dir.path().join("lib/proplet").display().to_string();
        for part in [&prefix, "/usr/local/lib/proplet", "--torch-lib", "--features pytorch"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
