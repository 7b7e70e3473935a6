//! Where the demo finds what it shows: OpenVINO, the models, files to look at.
//! In a source checkout it has them fetched.

use crate::config::Environment;
use crate::nn::{BackendName, Nn, NnConfig, OpenVinoConfig};
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names OpenVINO's library.
const LIBRARY: &str = "PROPLET_OPENVINO_LIB";

/// What there is to look at, of this project's own: relative to the checkout.
const SHOWN: &[&str] = &[
    "Cargo.toml",
    "src/main.rs",
    "fixtures/setup.py",
    "fixtures/files/waves.png",
    "fixtures/files/club.sqlite",
    "fixtures/files/tone.wav",
];

/// What must be there of each model, so that nothing is to be fetched.
const NEEDED: &[&str] = &[
    "magika/labels.txt",
    "magika/model.bin",
    "mobilenet/model.bin",
    "mobilenet/tensor.bgr",
    "real/efficientnet/classes.txt",
    "real/efficientnet/model.onnx",
    "real/faces/model.tflite",
    "real/line/line.png",
    "real/line/model.onnx",
    "real/photos/astronaut.png",
    "real/photos/cat.png",
    "real/voice/model.onnx",
    "real/voice/speech.wav",
];

/// Where everything is; all paths are absolute.
#[derive(Debug)]
pub(super) struct Place {
    /// The folder with the folders of the models.
    pub(super) models: PathBuf,
    /// The project's sources, if they are here.
    pub(super) checkout: Option<PathBuf>,
    /// OpenVINO, where it is not to be searched for.
    pub(super) library: Option<PathBuf>,
}

impl Place {
    /// Finds everything, having it fetched where that is possible.
    ///
    /// # Errors
    ///
    /// A sentence on what is missing and how to get it.
    pub(super) fn prepare(env: &Environment) -> anyhow::Result<Place> {
        let checkout = checkout(env);
        if let Some(place) = Place::find(env, checkout.as_deref()) {
            return Ok(place);
        }
        let Some(checkout) = checkout else {
            bail!(
                "the demo needs OpenVINO and models, and they are not here: looked for \
                 fixtures/magika, fixtures/mobilenet and fixtures/real in the folders above {}, \
                 and for the sources, which can fetch them. In a checkout of the sources, `cargo run \
                 --features openvino -- demo` does it all; or, with OpenVINO installed, try \
                 `proplet run`",
                env.executable().unwrap_or(Path::new("this program")).display(),
            );
        };
        fetch(env, &checkout)?;
        Place::find(env, Some(&checkout)).with_context(|| {
            format!(
                "fixtures/setup.py has ended well, but the models or OpenVINO are still not found \
                 in {}; `python3 fixtures/setup.py --force` makes them again",
                build_folder(env, &checkout).display()
            )
        })
    }

    fn find(env: &Environment, checkout: Option<&Path>) -> Option<Place> {
        let mut candidates: Vec<PathBuf> = above(env).map(Path::to_owned).collect();
        candidates.extend(checkout.map(|dir| build_folder(env, dir)));
        let complete = |folder: &&PathBuf| {
            NEEDED.iter().all(|file| folder.join("fixtures").join(file).is_file())
        };
        let folder = candidates.iter().find(complete)?;
        let fetched = folder.join("openvino/libs");
        let library = match env.variable(LIBRARY) {
            _ if !cfg!(feature = "openvino") => None,
            Some(path) => Some(PathBuf::from(path)),
            None if fetched.is_dir() => {
                // The worker's own search finds it, unless the program is elsewhere.
                (!above(env).any(|dir| dir == folder)).then_some(fetched)
            }
            None => {
                let search = env.library_search();
                let openvino = OpenVinoConfig { search, ..OpenVinoConfig::default() };
                let backend = Some(BackendName::OpenVino);
                let nn = Nn::new(NnConfig { backend, openvino, ..NnConfig::default() });
                nn.libraries().into_iter().find_map(|(_, found)| found.ok())?;
                None
            }
        };
        Some(Place {
            models: folder.join("fixtures"),
            checkout: checkout.map(Path::to_owned),
            library,
        })
    }

    /// Folders of the models.
    pub(super) fn model(&self, name: &str) -> PathBuf {
        self.models.join(name)
    }
}

/// The folders above the program.
fn above(env: &Environment) -> impl Iterator<Item = &Path> {
    env.executable().into_iter().flat_map(|file| file.ancestors().skip(1))
}

/// The project's sources: the working directory, or a folder above the program.
fn checkout(env: &Environment) -> Option<PathBuf> {
    let is_ours = |dir: &Path| {
        let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
        manifest.contains("name = \"proplet\"") && dir.join("fixtures/setup.py").is_file()
    };
    std::iter::once(env.working_dir())
        .chain(above(env))
        .find(|dir| is_ours(dir))
        .map(Path::to_owned)
}

/// Where setup.py puts what it makes: cargo's build folder, beside the program.
fn build_folder(env: &Environment, checkout: &Path) -> PathBuf {
    // Cargo tags the folder only if it made it itself.
    let is_of_cargo = |dir: &Path| {
        ["CACHEDIR.TAG", ".rustc_info.json"].iter().any(|mark| dir.join(mark).exists())
    };
    // `target/{profile}/proplet`, or one folder deeper: whatever is tagged further
    // up (a stray mark in /tmp) is none of ours.
    let of_cargo = above(env).take(3).find(|dir| is_of_cargo(dir));
    of_cargo.map_or_else(|| checkout.join("target"), Path::to_owned)
}

fn fetch(env: &Environment, checkout: &Path) -> anyhow::Result<()> {
    let script = checkout.join("fixtures/setup.py");
    eprintln!("First OpenVINO and the models, once (fixtures/setup.py):");
    let status = Command::new("python3")
        .arg(&script)
        .env("CARGO_TARGET_DIR", build_folder(env, checkout))
        // Standard output is for the answers.
        .stdout(std::io::stderr())
        .status()
        .with_context(|| {
            format!(
                "python3 does not start, and {} needs it to fetch OpenVINO and the models: install \
                 Python 3.9 or newer with pip (Debian: apt-get install python3-pip)",
                script.display()
            )
        })?;
    if !status.success() {
        bail!("the demo's set-up failed, see above; once that is fixed, run the demo again");
    }
    eprintln!();
    Ok(())
}

/// Files to look at: paths as the guest has them, and the directories that it
/// needs for that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    /// Directories of this machine, and what the guest calls them.
    pub(super) dirs: Vec<(PathBuf, String)>,
    /// As they are shown.
    pub(super) paths: Vec<String>,
}

impl Files {
    /// Some of the project's own; without the sources, of what is there anyway.
    pub(super) fn shown(place: &Place) -> Files {
        let (dir, names): (&Path, &[&str]) = match &place.checkout {
            Some(checkout) => (checkout, SHOWN),
            None => (&place.models, &["magika/labels.txt", "magika/model.xml", "magika/model.bin"]),
        };
        let there = names.iter().filter(|name| dir.join(name).is_file());
        Files {
            dirs: vec![(dir.to_owned(), ".".to_owned())],
            paths: there.map(|name| (*name).to_owned()).collect(),
        }
    }

    /// Those that were named, under the names that were given.
    pub(super) fn named(names: &[String], working_dir: &Path) -> anyhow::Result<Files> {
        let mut files = Files { dirs: Vec::new(), paths: Vec::new() };
        for name in names {
            let path = working_dir.join(name);
            let kind = std::fs::metadata(&path).with_context(|| format!("looking at {name}"))?;
            if !kind.is_file() {
                bail!("{name} is not a file: name files, as in `proplet demo {name}/*`");
            }
            let parent = Path::new(name).parent().and_then(Path::to_str).unwrap_or_default();
            let parent = if parent.is_empty() { "." } else { parent };
            let host = working_dir.join(parent);
            let host = host.canonicalize().with_context(|| format!("looking at {parent}"))?;
            let dir = (host, parent.to_owned());
            if !files.dirs.contains(&dir) {
                files.dirs.push(dir);
            }
            files.paths.push(name.clone());
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, b"").expect("written");
    }

    #[test]
    fn named_files_keep_their_names_and_bring_their_folders() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path().canonicalize().expect("there");
        for file in ["a", "b", "sub/c", "work/d"] {
            touch(&root.join(file));
        }
        let names = ["../a", "../b", "d", "../sub/c"].map(str::to_owned);
        let files = Files::named(&names, &root.join("work")).expect("files");
        assert_eq!(files.paths, names);
        assert_eq!(
            files.dirs,
            [
                (root.clone(), "..".to_owned()),
                (root.join("work"), ".".to_owned()),
                (root.join("sub"), "../sub".to_owned()),
            ]
        );
        let error = Files::named(&["sub".to_owned()], &root).expect_err("a folder");
        assert!(error.to_string().contains("sub is not a file"), "{error}");
        let error = Files::named(&["x".to_owned()], &root).expect_err("missing");
        assert!(error.to_string().contains("looking at x"), "{error}");
    }

    #[test]
    fn the_sources_are_known_by_their_manifest_and_their_setup() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |below: &str| root.path().join(below);
        let env = Environment::new(at("elsewhere")).with_executable(at("src/target/debug/proplet"));
        touch(&at("src/fixtures/setup.py"));
        assert_eq!(checkout(&env), None);
        fs::write(at("src/Cargo.toml"), "[package]\nname = \"proplet\"\n").expect("written");
        assert_eq!(checkout(&env), Some(at("src")));
        assert_eq!(build_folder(&env, &at("src")), at("src/target"));
        touch(&at("CACHEDIR.TAG"));
        assert_eq!(build_folder(&env, &at("src")), at("src/target"));
        touch(&at("src/target/debug/CACHEDIR.TAG"));
        assert_eq!(build_folder(&env, &at("src")), at("src/target/debug"));
    }

    #[test]
    fn without_models_and_sources_the_error_says_how_to_get_them() {
        let root = tempfile::tempdir().expect("a folder");
        let env = Environment::new(root.path()).with_executable(root.path().join("bin/proplet"));
        let error = Place::prepare(&env).expect_err("nothing there").to_string();
        assert!(error.contains("cargo run --features openvino -- demo"), "{error}");
        assert!(error.contains("bin/proplet"), "{error}");
    }
}
