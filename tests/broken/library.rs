//! A native library that a model has taken over. It stands in front of
//! OpenVINO's own, and before it hands a call on it does what the file `order`
//! beside it says. `mod.rs` builds it; it is no part of a test program.

#![allow(unsafe_code, reason = "a native library's functions, and an attacker's")]

#[path = "../it/confinement/attack.rs"]
mod attack;

use attack::{Victim, attempts};
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `dladdr` tells of an address.
#[repr(C)]
struct Found {
    file: *const c_char,
    base: *mut c_void,
    symbol: *const c_char,
    address: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, found: *mut Found) -> c_int;
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// The names of OpenVINO's functions, each between zeros as a file has those that
/// it exports: whoever looks for them in this one finds them.
#[used]
static NAMES: [u8; env!("NAMES").len()] = {
    let names = env!("NAMES").as_bytes();
    let mut separated = [0; env!("NAMES").len()];
    let mut at = 0;
    while at < names.len() {
        separated[at] = if names[at] == b' ' { 0 } else { names[at] };
        at += 1;
    }
    separated
};

/// Called when the library is opened.
///
/// # Safety
///
/// As OpenVINO says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ov_core_create(core: *mut *mut c_void) -> c_int {
    obey("at the start");
    let real = real(c"ov_core_create");
    // SAFETY: OpenVINO's own function of this name.
    let real: unsafe extern "C" fn(*mut *mut c_void) -> c_int = unsafe { std::mem::transmute(real) };
    // SAFETY: the caller's promise.
    unsafe { real(core) }
}

/// Called when a model is loaded.
///
/// # Safety
///
/// As OpenVINO says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ov_core_read_model_from_memory_buffer(
    core: *const c_void,
    text: *const c_char,
    length: usize,
    weights: *const c_void,
    model: *mut *mut c_void,
) -> c_int {
    type Read = unsafe extern "C" fn(
        *const c_void,
        *const c_char,
        usize,
        *const c_void,
        *mut *mut c_void,
    ) -> c_int;
    // SAFETY: the caller's promise: a text of this length.
    let read = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    // Such models are there beside those that do no harm.
    let has = |name: &[u8]| read.windows(name.len()).any(|part| part == name);
    if has(b"name=\"crashes\"") {
        crash();
    }
    if has(b"name=\"hangs\"") {
        hang();
    }
    obey("at a load");
    let real = real(c"ov_core_read_model_from_memory_buffer");
    // SAFETY: OpenVINO's own function of this name.
    let real: Read = unsafe { std::mem::transmute(real) };
    // SAFETY: the caller's promise.
    unsafe { real(core, text, length, weights, model) }
}

/// Called in each inference.
///
/// # Safety
///
/// As OpenVINO says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ov_infer_request_wait(request: *mut c_void) -> c_int {
    obey("at an inference");
    let real = real(c"ov_infer_request_wait");
    // SAFETY: OpenVINO's own function of this name.
    let real: unsafe extern "C" fn(*mut c_void) -> c_int = unsafe { std::mem::transmute(real) };
    // SAFETY: the caller's promise.
    unsafe { real(request) }
}

/// The order is a line each: when, what, and what that needs.
fn obey(when: &str) {
    let folder = folder();
    let order = std::fs::read_to_string(folder.join("order")).unwrap_or_default();
    let mut lines = order.lines();
    if lines.next() != Some(when) {
        return;
    }
    match lines.next() {
        Some("crash") => crash(),
        Some("hang") => hang(),
        Some("crash once") => {
            if is_first(&folder) {
                crash();
            }
        }
        Some("crash, then hang") => {
            if is_first(&folder) {
                crash();
            }
            hang();
        }
        Some("attack") => {
            let mut next = || lines.next().expect("all that is known of the victim");
            let victim = Victim {
                pid: next().parse().expect("a number"),
                secret: next().into(),
                elsewhere: next().into(),
                port: next().parse().expect("a number"),
                socket: next().into(),
                address: next().parse().expect("a number"),
            };
            let done: String = attempts(&victim)
                .into_iter()
                .filter_map(|(attempt, result)| Some(format!("{attempt}: {}\n", result.ok()?)))
                .collect();
            std::fs::write(folder.join("out/done"), done).expect("a folder that may be written to");
        }
        other => panic!("no such order: {other:?}"),
    }
}

/// Whether this is the first time, in whatever process.
fn is_first(folder: &Path) -> bool {
    std::fs::File::create_new(folder.join("out/crashed")).is_ok()
}

fn crash() {
    let nowhere = std::ptr::without_provenance_mut::<u8>(8);
    // SAFETY: none: this is the crash.
    unsafe { nowhere.write_volatile(1) }
}

fn hang() {
    let hangs = folder().join("out/hangs");
    std::fs::write(hangs, "").expect("a folder that may be written to");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// The folder that this library lies in.
fn folder() -> PathBuf {
    let mut found = Found {
        file: std::ptr::null(),
        base: std::ptr::null_mut(),
        symbol: std::ptr::null(),
        address: std::ptr::null_mut(),
    };
    // SAFETY: an address of this library, and room for what is told of it.
    let known = unsafe { dladdr(folder as *const c_void, &raw mut found) };
    assert!(known != 0, "the library does not know itself");
    // SAFETY: a string of the loader's, which lives as long as the library.
    let file = unsafe { CStr::from_ptr(found.file) };
    let file = Path::new(OsStr::from_bytes(file.to_bytes()));
    file.parent().expect("a folder").to_owned()
}

/// OpenVINO's own function: this library needs that one, which is loaded.
fn real(name: &CStr) -> *mut c_void {
    const NOW: c_int = 2;
    let file = CString::new(env!("OPENVINO")).expect("a path");
    // SAFETY: strings that end with a zero; the library is never closed.
    let function = unsafe { dlsym(dlopen(file.as_ptr(), NOW), name.as_ptr()) };
    assert!(!function.is_null(), "OpenVINO has no {name:?}");
    function
}
