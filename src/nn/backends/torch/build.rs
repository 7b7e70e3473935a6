//! Part of the build script: makes the worker's library for libtorch out of
//! `shim.cpp` and puts it beside the program, in the build folder.
//!
//! libtorch is that of LIBTORCH (an unpacked archive of pytorch.org), that of
//! Debian's libtorch-dev, or that of a Python installation.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 7] = [
    "src/nn/backends/torch/shim.cpp",
    "src/nn/backends/torch/shim.h",
    "src/nn/backends/torch/factors.h",
    "src/nn/backends/torch/memory.h",
    "src/nn/backends/torch/outputs.h",
    "src/nn/backends/torch/proofs.h",
    "src/nn/backends/torch/watch.h",
];

/// Where headers and libraries are.
struct Libtorch {
    include: PathBuf,
    lib: PathBuf,
    /// The system's loader finds it by itself.
    of_system: bool,
}

/// Makes the library.
///
/// # Errors
///
/// One sentence: where libtorch was looked for, or what the compiler says.
pub(crate) fn build() -> Result<(), String> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-changed=src/nn/backends/torch/build.rs");
    for variable in ["LIBTORCH", "CXX", "CXXFLAGS", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let Libtorch { include, lib, of_system } = find()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    let mac = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "macos");
    let name = if mac { "libproplet_torch.dylib" } else { "libproplet_torch.so" };
    let made = out.join(name);

    let mut build = cc::Build::new();
    build.cpp(true).opt_level(2).debug(false).pic(true).warnings(false).cargo_metadata(false);
    let compiler = build.try_get_compiler().map_err(|error| {
        format!("the feature `pytorch` needs a C++ compiler (Debian: apt-get install g++): {error}")
    })?;
    let mut command = compiler.to_command();
    command.args(["-std=c++17", "-shared", "-fvisibility=hidden"]);
    let abi = i32::from(!has_old_strings(&lib));
    command.arg(format!("-D_GLIBCXX_USE_CXX11_ABI={abi}"));
    // Those of others, whose warnings are not ours.
    if !of_system {
        command.arg("-isystem").arg(&include);
    }
    command.arg("-isystem").arg(include.join("torch/csrc/api/include"));
    command.arg("-o").arg(&made).arg(SOURCES[0]);
    command.arg("-L").arg(&lib).args(["-ltorch_cpu", "-lc10"]);
    if !of_system {
        command.arg(format!("-Wl,-rpath,{}", lib.display()));
        println!("cargo::rustc-env=PROPLET_LIBTORCH={}", lib.display());
    }
    let output = command.output().map_err(|error| format!("the C++ compiler: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().find(|line| line.contains("error")).unwrap_or("it failed");
        return Err(format!(
            "the C++ compiler can't build {} against the libtorch in {}: {first}",
            SOURCES[0],
            include.display()
        ));
    }
    // `target/PROFILE/build/NAME/out`.
    let folder = out.ancestors().nth(3).ok_or("cargo's OUT_DIR lies in no build folder")?;
    // Whole at any moment for who opens it.
    let new = folder.join(format!(".{name}.{}", std::process::id()));
    fs::copy(&made, &new)
        .and_then(|_| fs::rename(&new, folder.join(name)))
        .map_err(|error| format!("putting {name} into {}: {error}", folder.display()))
}

fn find() -> Result<Libtorch, String> {
    let mut looked = Vec::new();
    let of_root = |root: &Path| {
        let found =
            Libtorch { include: root.join("include"), lib: root.join("lib"), of_system: false };
        found.include.join("torch/csrc/jit/api/module.h").exists().then_some(found)
    };
    if let Some(root) = env::var_os("LIBTORCH") {
        let root = PathBuf::from(root);
        return of_root(&root).ok_or_else(|| {
            let headers = "no include/torch/csrc/jit/api/module.h";
            format!("LIBTORCH is {}, which has {headers}", root.display())
        });
    }
    let include = PathBuf::from("/usr/include");
    if include.join("torch/csrc/jit/api/module.h").exists() {
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
        let folders =
            [format!("/usr/lib/{arch}-linux-gnu"), "/usr/lib".into(), "/usr/lib64".into()];
        let lib = folders.into_iter().map(PathBuf::from).find(|lib| is_lib(lib));
        if let Some(lib) = lib {
            return Ok(Libtorch { include, lib, of_system: true });
        }
    }
    looked.push("/usr/include/torch".to_owned());
    // Its folder alone: to import it takes seconds.
    let code = "import importlib.util as u; s = u.find_spec('torch'); \
                print(s.submodule_search_locations[0] if s else '')";
    for python in ["python3", "python"] {
        let Ok(output) = Command::new(python).args(["-c", code]).output() else { continue };
        let root = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if root.is_empty() {
            looked.push(format!("the packages of {python}"));
        } else if let Some(found) = of_root(Path::new(&root)) {
            return Ok(found);
        } else {
            looked.push(root);
        }
    }
    Err(format!(
        "the feature `pytorch` needs libtorch with its headers: install Debian's libtorch-dev or the \
         Python package torch, or unpack an archive of pytorch.org and name its folder in LIBTORCH; \
         looked for it in {}",
        looked.join(", ")
    ))
}

fn is_lib(folder: &Path) -> bool {
    folder.join("libtorch_cpu.so").exists() || folder.join("libtorch_cpu.dylib").exists()
}

/// Whether it was built with the strings that C++ had before 2011, as some of
/// PyTorch's own builds are: the names of its functions tell.
fn has_old_strings(lib: &Path) -> bool {
    const OLD: &[u8] = b"torchCheckFailEPKcS2_jRKSs";
    let file = fs::read(lib.join("libc10.so")).unwrap_or_default();
    file.windows(OLD.len()).any(|bytes| bytes == OLD)
}
