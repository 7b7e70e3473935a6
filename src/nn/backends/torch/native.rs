//! The shim's interface (`shim.h`), opened at run time, and handles that are
//! given back.
#![allow(unsafe_code, reason = "the one place where libtorch's shim is called")]

mod context;
mod interface;

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use libloading::Library;

pub(super) use self::context::Context;
use self::interface::{ErrorText, Functions, INTERFACE, RawModel, Status};
use super::lanes::Flag;
use crate::nn::refusal::{Errno, Refusal};

/// What a failure's text may have.
const MAX_ERROR: usize = 16 << 10;

/// What went wrong, as the shim tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShimFailure {
    Refused,
    Failed,
    Cancelled,
    TooLarge,
}

/// A failure with its text.
pub(super) type Failed = (ShimFailure, String);

/// The errno and the sentence for what the shim has told.
pub(super) fn refusal((failure, text): Failed, what: &str) -> Refusal {
    let errno = match failure {
        ShimFailure::Refused => Errno::UnsupportedOperation,
        ShimFailure::Failed | ShimFailure::Cancelled => Errno::RuntimeError,
        ShimFailure::TooLarge => Errno::TooLarge,
    };
    Refusal::new(errno, format!("{what}: {text}"))
}

/// The shim, which stays loaded as long as something of it is there.
pub(super) struct Shim {
    functions: Functions,
    pub(super) version: String,
    _library: Library,
}

impl Shim {
    /// Opens it, and libtorch with it.
    ///
    /// # Errors
    ///
    /// One sentence: what it depends on is missing, or it is of another worker.
    pub(super) fn open(path: &Path) -> Result<Arc<Shim>, String> {
        // SAFETY: its initialisers are those of libtorch, which run nothing of a guest's.
        let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
        type Interface = unsafe extern "C" fn() -> u32;
        // SAFETY: this function stays as it is in all versions of the interface.
        let found = unsafe {
            let interface = library.get::<Interface>(b"proplet_torch_interface\0");
            interface.map_err(|_| "it is not the worker's library for libtorch".to_owned())?()
        };
        if found != INTERFACE {
            return Err(format!(
                "it is of another version of the worker (interface {found}, not {INTERFACE}): \
                 build both anew"
            ));
        }
        // SAFETY: it is the shim, and of this interface.
        let functions = unsafe { Functions::of(&library)? };
        // SAFETY: a text without an end of its life.
        let version = unsafe { text((functions.version)()) };
        let shim = Shim { functions, version, _library: library };
        // SAFETY: before anything else of it.
        let prepared = called(|error| unsafe { (shim.functions.prepare)(error) });
        prepared.map_err(|(_, error)| error)?;
        Ok(Arc::new(shim))
    }

    /// Gives this thread its share of the processors.
    pub(super) fn thread(&self, threads: usize) -> Result<(), String> {
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        // SAFETY: a number.
        called(|error| unsafe { (self.functions.thread)(threads, error) })
            .map_err(|(_, error)| error)
    }

    /// Loads an archive, which has been proven.
    pub(super) fn load(
        self: &Arc<Shim>,
        archive: &[u8],
        operators: &str,
        memory: u64,
        flag: &Flag,
    ) -> Result<Loaded, Failed> {
        let operators =
            CString::new(operators).map_err(|e| (ShimFailure::Failed, e.to_string()))?;
        let mut model = ptr::null_mut();
        let load = self.functions.load;
        // SAFETY: the bytes are read until this returns, and so are list and flag.
        called(|error| unsafe {
            let (bytes, size) = (archive.as_ptr(), archive.len());
            load(bytes, size, operators.as_ptr(), memory, flag.as_ptr(), &mut model, error)
        })?;
        let model = NonNull::new(model).ok_or_else(nothing)?;
        Ok(Loaded { model, shim: self.clone() })
    }
}

/// What an argument of the method is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    Tensor,
    Int,
    Float,
    Truth,
}

/// An argument of the method.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) kind: Argument,
    pub(super) optional: bool,
}

/// A model that is loaded.
pub(super) struct Loaded {
    model: NonNull<RawModel>,
    shim: Arc<Shim>,
}

// SAFETY: libtorch keeps nothing of it for a thread.
unsafe impl Send for Loaded {}
// SAFETY: what takes `&self` reads what does not change, or makes a context, for which
// the shim says that models may be used by several.
unsafe impl Sync for Loaded {}

impl Loaded {
    pub(super) fn inputs(&self) -> Vec<Input> {
        let functions = &self.shim.functions;
        let model = self.model.as_ptr();
        // SAFETY: the model is live.
        let count = unsafe { (functions.inputs)(model) };
        let input = |index| {
            // SAFETY: the model is live, and the text as long as it is; the index is one.
            let (raw, name) = unsafe {
                let raw = (functions.input)(model, index);
                let name = text(raw.name);
                (raw, name)
            };
            let kind = match raw.kind {
                1 => Argument::Int,
                2 => Argument::Float,
                3 => Argument::Truth,
                _ => Argument::Tensor,
            };
            Input { name, kind, optional: raw.optional != 0 }
        };
        (0..count).map(input).collect()
    }

    /// The outputs' names; none if only a run tells.
    pub(super) fn outputs(&self) -> Option<Vec<String>> {
        let functions = &self.shim.functions;
        let model = self.model.as_ptr();
        // SAFETY: the model is live.
        let count = usize::try_from(unsafe { (functions.declared_outputs)(model) }).ok()?;
        // SAFETY: the model is live, and the text as long as it is; the index is one.
        let name = |index| unsafe { text((functions.declared_output)(model, index)) };
        Some((0..count).map(name).collect())
    }

    pub(super) fn stateful(&self) -> bool {
        // SAFETY: the model is live.
        unsafe { (self.shim.functions.stateful)(self.model.as_ptr()) != 0 }
    }

    pub(super) fn schema(&self) -> String {
        // SAFETY: the model is live, and the text as long as it is.
        unsafe { text((self.shim.functions.schema)(self.model.as_ptr())) }
    }

    pub(super) fn context(&self, memory: u64) -> Result<Context, Failed> {
        let mut context = ptr::null_mut();
        let make = self.shim.functions.context;
        // SAFETY: the model is live; several threads may do this.
        called(|error| unsafe { make(self.model.as_ptr(), memory, &mut context, error) })?;
        let context = NonNull::new(context).ok_or_else(nothing)?;
        Ok(Context { context, shim: self.shim.clone() })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // SAFETY: it is not used any more; contexts have their own share of it.
        unsafe { (self.shim.functions.free_model)(self.model.as_ptr()) }
    }
}

fn called(call: impl FnOnce(ErrorText) -> Status) -> Result<(), Failed> {
    let mut buffer = vec![0_u8; MAX_ERROR];
    let status = call(ErrorText { text: buffer.as_mut_ptr().cast(), size: buffer.len() });
    let failure = match status {
        0 => return Ok(()),
        1 => ShimFailure::Refused,
        3 => ShimFailure::Cancelled,
        4 => ShimFailure::TooLarge,
        _ => ShimFailure::Failed,
    };
    let text = CStr::from_bytes_until_nul(&buffer).map(CStr::to_string_lossy).unwrap_or_default();
    Err((failure, sentence(&text)))
}

/// What libtorch says, in one line: the interpreter's errors begin with where
/// they happened, and end with what did.
fn sentence(text: &str) -> String {
    const MAX: usize = 600;
    let traceback = text.contains("Traceback of TorchScript");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<&str> = match traceback {
        true => lines.next_back().into_iter().collect(),
        false => lines.collect(),
    };
    let mut said = said.join(" ");
    if said.len() > MAX {
        said.truncate(said.floor_char_boundary(MAX));
        said.push_str("...");
    }
    said
}

fn nothing() -> Failed {
    (ShimFailure::Failed, "libtorch gave nothing".to_owned())
}

/// # Safety
///
/// A text with an end, or null.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_interpreter_is_what_happened() {
        let text = "The following operation failed in the TorchScript interpreter.\n\
                    Traceback of TorchScript (most recent call last):\n  File \"code\", line 3\n\
                    RuntimeError: mat1 and mat2 shapes cannot be multiplied\n";
        assert_eq!(sentence(text), "RuntimeError: mat1 and mat2 shapes cannot be multiplied");
        assert_eq!(sentence("unknown\n  key\n"), "unknown key");
        assert!(sentence(&"x".repeat(1000)).len() < 700);
    }
}
