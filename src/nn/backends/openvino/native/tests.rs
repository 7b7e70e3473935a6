use std::path::Path;
use std::thread;

use super::super::library::{self, SearchEnv};
use super::*;
use crate::nn::assets::assets;

/// The library beside the build, as a worker finds it.
fn core() -> Core {
    assets();
    let search = SearchEnv::from_lookup(std::env::current_exe().ok(), |_| None);
    library::find(None, &search, |path: &Path| load(path)).expect("run fixtures/setup.py");
    Core::new().expect("a core")
}

/// Fails, and leaves a message with `key` in it.
fn unknown(core: &Core, key: &CStr) -> Status {
    let mut value = ptr::null_mut();
    // SAFETY: the core is live, the strings end in NUL; what fails gives no value.
    unsafe { ov::ov_core_get_property(core.0.as_ptr(), c"CPU".as_ptr(), key.as_ptr(), &mut value) }
}

/// ARCHITECTURE.md, case 67.
#[test]
fn what_is_told_of_a_call_is_never_what_the_library_said_of_another() {
    let core = core();
    // Between the failure of one and the reading of its message another fails.
    let mine = call(|| {
        let status = unknown(&core, c"MINE");
        let others = || call(|| unknown(&core, c"OTHERS"));
        thread::scope(|scope| scope.spawn(others).join().expect("no panic")).expect_err("unknown");
        status
    });
    let mine = mine.expect_err("unknown");
    assert!(!mine.contains("OTHERS"), "{mine}");
    // What fails without a message does not get the one that is there.
    assert_eq!(call(|| Status::INVALID_C_PARAM).expect_err("as it is"), "INVALID_C_PARAM");
    // Alone it is told in full, once no other test's call is in the way.
    let told = std::iter::repeat_with(|| call(|| unknown(&core, c"ALONE")).expect_err("unknown"));
    assert!(told.take(300).any(|text| text.contains("ALONE")));
}
