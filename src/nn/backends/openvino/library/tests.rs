//! Libraries in folders of every kind of installation.

use super::*;

fn touch(path: &Path) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, b"").expect("written");
}

#[test]
fn the_folders_of_what_is_found_and_of_what_it_needs_are_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().canonicalize().expect("a directory");
    let library = root.join("runtime/lib/intel64/libopenvino_c.so");
    touch(&library);
    std::os::unix::fs::symlink(&library, root.join("libopenvino_c.so")).expect("linked");
    let none = env(&[]);
    let of = |explicit: &Path| folders(Some(explicit), &none);
    assert_eq!(of(&library), [root.join("runtime")]);
    assert_eq!(of(&root), [root.clone(), root.join("runtime")]);
    assert_eq!(of(&root.join("missing")), std::slice::from_ref(&root));
    let (libraries, other) = (root.join("runtime/lib/intel64"), root.join("other"));
    let paths = std::env::join_paths([&libraries, &other]).expect("paths");
    let found = folders(None, &env(&[("LD_LIBRARY_PATH", Path::new(&paths))]));
    for folder in [root.join("runtime"), other] {
        assert!(found.contains(&folder), "{found:?}");
    }
    assert!(!found.contains(&root), "{found:?}");
}

fn env(variables: &[(&str, &Path)]) -> SearchEnv {
    SearchEnv::from_lookup(None, |name| {
        let set = variables.iter().find(|(variable, _)| *variable == name);
        set.map(|(_, value)| value.as_os_str().to_owned())
    })
}

// The first library below `root` that is found.
fn first(root: &Path, env: &SearchEnv) -> String {
    let found = find(None, env, |file| match file.strip_prefix(root) {
        Ok(below) => Ok(below.display().to_string()),
        Err(_) => Err("elsewhere".to_owned()),
    });
    found.expect("a library")
}

#[test]
fn names_of_libraries_are_known_with_and_without_versions() {
    for name in [
        "libopenvino_c.so",
        "libopenvino_c.so.2641",
        "libopenvino_c.so.2026.4.1",
        "libopenvino_c.dylib",
        "libopenvino_c.2541.dylib",
        "libopenvino_c.2025.4.1.dylib",
    ] {
        assert!(is_library(name), "{name}");
    }
    for name in [
        "libopenvino.so",
        "libopenvino_c.so.",
        "libopenvino_c.so.x",
        "libopenvino_c.a",
        "libopenvino_c..dylib",
        "libopenvino_c.so2641",
    ] {
        assert!(!is_library(name), "{name}");
    }
}

#[test]
fn the_plain_name_comes_first_then_the_newest_version() {
    let dir = tempfile::tempdir().expect("a folder");
    for version in ["2026.4.1", "2026.10.0", "9999"] {
        touch(&dir.path().join(format!("libopenvino_c.so.{version}")));
    }
    let order = || -> Vec<_> {
        let files = libraries(dir.path());
        files.iter().map(|file| file.extension().expect("one").to_owned()).collect()
    };
    assert_eq!(order(), ["9999", "0", "1"]);
    touch(&dir.path().join("libopenvino_c.so"));
    assert_eq!(order()[0], "so");
}

#[test]
fn the_order_of_places_is_that_of_the_documentation() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |below: &str| root.path().join(below);
    let mut env = env(&[
        ("OPENVINO_INSTALL_DIR", &at("install")),
        ("LD_LIBRARY_PATH", &at("ld")),
        ("VIRTUAL_ENV", &at("venv")),
    ]);
    env.executable = Some(at("project/target/debug/proplet"));
    for library in [
        "venv/lib/python3.13/site-packages/openvino/libs/libopenvino_c.so.2641",
        "project/target/openvino/libs/libopenvino_c.so.2641",
        "ld/libopenvino_c.so.2541",
        &format!("install/{}/libopenvino_c.so", ARCHIVE[4]),
    ] {
        touch(&at(library));
        assert_eq!(first(root.path(), &env), library);
    }
}

#[test]
fn what_can_not_be_used_is_passed_over_and_told() {
    let root = tempfile::tempdir().expect("a folder");
    touch(&root.path().join("old/libopenvino_c.so"));
    let env = env(&[("LD_LIBRARY_PATH", &root.path().join("old"))]);
    let load = |file: &Path| {
        Err::<(), _>(format!(
            "OpenVINO 2023.1 found at `{}`, 2025.1 or newer is needed",
            file.display()
        ))
    };
    let error = find(None, &env, load).expect_err("none");
    assert!(error.starts_with("OpenVINO 2023.1 found at `"), "{error}");
    assert!(error.contains("old/libopenvino_c.so`, 2025.1 or newer is needed"), "{error}");
    for part in ["pip install openvino", "PROPLET_OPENVINO_LIB", "`proplet doctor` lists"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let places = looked(None, &env);
    for place in ["/usr/lib", "/usr/lib/python3*/dist-packages/openvino/libs"] {
        assert!(places.contains(&PathBuf::from(place)), "{place}: {places:?}");
    }
    let elsewhere = if cfg!(target_os = "macos") { "x86_64-linux-gnu" } else { "homebrew" };
    assert!(places.iter().all(|place| !place.to_string_lossy().contains(elsewhere)), "{places:?}");
}

#[test]
fn an_explicit_path_is_the_only_one() {
    let root = tempfile::tempdir().expect("a folder");
    touch(&root.path().join("libopenvino_c.so.2641"));
    let env = env(&[("LD_LIBRARY_PATH", root.path())]);
    let missing = root.path().join("missing.so");
    let load = |file: &Path| {
        if file.exists() { Ok(file.to_owned()) } else { Err(format!("no {}", file.display())) }
    };
    let error = find(Some(&missing), &env, load).expect_err("missing");
    assert!(error.contains("missing.so") && error.contains("no other place"), "{error}");
    let folder = find(Some(root.path()), &env, load).expect("the folder's library");
    assert!(folder.ends_with("libopenvino_c.so.2641"));
}
