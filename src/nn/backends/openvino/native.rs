//! OpenVINO's C interface behind types that can't be misused: the only module
//! that names `openvino_sys`.
//!
//! The wrappers of the crate `openvino` are not used: they leak each error
//! message and each port (an output's port keeps the whole model alive), free
//! a tensor twice when its shape is set, can't cancel an inference from
//! another thread, and panic on a NUL or on a library that is too old.
//!
//! # Safety
//!
//! Each wrapper owns the one pointer that its constructor was given by the
//! library, which was checked not to be null, and frees it once, in `Drop`.
//! Out-parameters point to locals. Objects may move between threads (`Send`):
//! the library keeps nothing for a thread. `Sync` is given where OpenVINO
//! documents its C++ object as thread safe (`Core`, `OwnedModel`) and for
//! the one call of a request that is ([`request::Canceller`]). What a compiled
//! model refers to outlives it: see [`CompiledModel`].
#![allow(unsafe_code, reason = "the C interface of a library that is loaded at run time")]

use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};

use openvino_sys as ov;
use openvino_sys::ov_status_e as Status;

mod calls;
mod compiled;
mod elements;
mod load;
mod request;

use self::calls::Calls;
pub(super) use self::compiled::{CompiledModel, RawPort};
pub(super) use self::elements::element;
#[cfg(test)]
pub(super) use self::load::FUNCTIONS;
pub(super) use self::load::load;
use self::request::Tensor;
pub(super) use self::request::{Given, InferRequest, Taken};
use crate::nn::source::Source;

/// OpenVINO's runtime for the process. Thread safe, as `ov::Core` documents.
pub(super) struct Core(NonNull<ov::ov_core_t>);

// SAFETY: `ov::Core` keeps nothing for a thread, and documents itself as thread safe.
unsafe impl Send for Core {}
// SAFETY: as above: each call may come from any thread at any time.
unsafe impl Sync for Core {}

impl Core {
    /// Needs [`load`] to have succeeded.
    pub(super) fn new() -> Result<Core, String> {
        // SAFETY: the out-parameter is a local of `owned`, and the library is loaded.
        owned(|core| unsafe { ov::ov_core_create(core) }).map(Core)
    }

    /// The devices that are there, such as `CPU` or `GPU.0`.
    pub(super) fn devices(&self) -> Result<Vec<String>, String> {
        let mut list = ov::ov_available_devices_t { devices: ptr::null_mut(), size: 0 };
        // SAFETY: the core is live, the list a local; `size` strings of it are
        // read before they are freed.
        unsafe {
            call(|| ov::ov_core_get_available_devices(self.0.as_ptr(), &mut list))?;
            let names = (0..list.size).map(|i| text(*list.devices.add(i))).collect();
            ov::ov_available_devices_free(&mut list);
            Ok(names)
        }
    }

    /// Sets a property of a device.
    pub(super) fn set_property(&self, device: &str, key: &str, value: &str) -> Result<(), String> {
        let (device, key, value) = (string(device)?, string(key)?, string(value)?);
        // SAFETY: the core is live; the three strings end in NUL and outlive the
        // call, whose variadic part is one pair, as this function wants it.
        call(|| unsafe {
            ov::ov_core_set_property(self.0.as_ptr(), device.as_ptr(), key.as_ptr(), value.as_ptr())
        })
    }

    /// A property of a device.
    pub(super) fn property(&self, device: &str, key: &str) -> Result<String, String> {
        let (device, key, mut value) = (string(device)?, string(key)?, ptr::null_mut());
        let core = self.0.as_ptr();
        // SAFETY: the core is live, the strings outlive the call; the value is a
        // copy, ours to free.
        unsafe {
            call(|| ov::ov_core_get_property(core, device.as_ptr(), key.as_ptr(), &mut value))?;
            let copy = text(value);
            ov::ov_free(value);
            Ok(copy)
        }
    }

    /// Reads a model that stands in memory, in an encoding that tells itself.
    /// `weights` are those of an intermediate representation: the library does
    /// not copy them, so they have to outlive the model and what it is compiled to.
    pub(super) fn read(&self, model: &[u8], weights: &[u8]) -> Result<Model, String> {
        // A null pointer is a model without weights.
        let weights = if weights.is_empty() { None } else { Some(Tensor::over(weights)?) };
        let tensor = weights.as_ref().map_or(ptr::null(), |tensor| tensor.0.as_ptr().cast_const());
        // SAFETY: the model is copied by the call; the weights are not, and
        // outlive what is made of them, as the caller sees to.
        let model = owned(|read| unsafe {
            ov::ov_core_read_model_from_memory_buffer(
                self.0.as_ptr(),
                model.as_ptr().cast::<c_char>(),
                model.len(),
                tensor,
                read,
            )
        });
        model.map(Model)
    }

    /// Reads a model from a file, in the encoding that its name ends with.
    pub(super) fn read_file(&self, path: &str) -> Result<Model, String> {
        let path = string(path)?;
        // SAFETY: the core is live, and the path ends in NUL and outlives the
        // call. A null pointer stands for a model without a file of weights.
        let model = owned(|read| unsafe {
            ov::ov_core_read_model(self.0.as_ptr(), path.as_ptr(), ptr::null(), read)
        });
        model.map(Model)
    }

    /// Compiles a model, whose weights are a part of `source` unless it holds
    /// them itself.
    pub(super) fn compile(
        &self,
        model: &Model,
        source: &Source,
        device: &str,
    ) -> Result<CompiledModel, String> {
        let device = string(device)?;
        // SAFETY: core and model are live, and the variadic function is given no
        // property, as its count says.
        let compiled = owned(|compiled| unsafe {
            ov::ov_core_compile_model(
                self.0.as_ptr(),
                model.0.as_ptr(),
                device.as_ptr(),
                0,
                compiled,
            )
        })?;
        Ok(CompiledModel::new(compiled, source, Vec::new()))
    }
}

impl Core {
    /// Takes over what [`CompiledModel::export`] gave, of the same source.
    pub(super) fn import(
        &self,
        source: &Source,
        exported: Vec<u8>,
        device: &str,
    ) -> Result<CompiledModel, String> {
        let device = string(device)?;
        // The library does not copy all of it: constants of the compiled model
        // stay where they are in these bytes.
        // SAFETY: the bytes outlive the compiled model, with which they are kept.
        let compiled = owned(|compiled| unsafe {
            ov::ov_core_import_model(
                self.0.as_ptr(),
                exported.as_ptr().cast::<c_char>(),
                exported.len(),
                device.as_ptr(),
                compiled,
            )
        })?;
        Ok(CompiledModel::new(compiled, source, exported))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // SAFETY: the only owner's end; nothing uses the pointer after it.
        unsafe { ov::ov_core_free(self.0.as_ptr()) }
    }
}

/// A model as a frontend has read it.
pub(super) struct Model(NonNull<ov::ov_model_t>);

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the only owner's end; a compiled model keeps what it needs of it.
        unsafe { ov::ov_model_free(self.0.as_ptr()) }
    }
}

static CALLS: Calls = Calls::new();

/// Makes a call, and says of a failure what the library says of it, in one
/// line. Every call that can fail is made here or by [`attempt`].
fn call(call: impl FnOnce() -> Status) -> Result<(), String> {
    let made = CALLS.make(|| result(call()), |status| message(*status));
    made.map_err(|(status, text)| match text {
        Some(text) => text,
        None if has_message(status) => {
            format!("{status:?} (its message can't be told apart from those of other calls)")
        }
        None => format!("{status:?}"),
    })
}

/// Makes a call whose failure is no news.
fn attempt(call: impl FnOnce() -> Status) -> Result<(), Status> {
    CALLS.make(|| result(call()), |_| None).map_err(|(status, _)| status)
}

fn result(status: Status) -> Result<(), Status> {
    if status == Status::OK { Ok(()) } else { Err(status) }
}

/// Whether a failed call has left a message: those that found their arguments
/// wrong leave the one before. Of a cancelled inference all is known.
fn has_message(status: Status) -> bool {
    use Status::{GENERAL_ERROR, NOT_IMPLEMENTED, REQUEST_BUSY, UNKNOW_EXCEPTION};
    matches!(status, GENERAL_ERROR | NOT_IMPLEMENTED | REQUEST_BUSY | UNKNOW_EXCEPTION)
}

fn message(status: Status) -> Option<String> {
    if !has_message(status) {
        return None;
    }
    // SAFETY: the message is a copy, ours to free.
    let message = unsafe {
        let message = ov::ov_get_last_err_msg();
        let copy = text(message);
        if !message.is_null() {
            ov::ov_free(message);
        }
        copy
    };
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    Some(lines.collect::<Vec<_>>().join(" ")).filter(|message| !message.is_empty())
}

/// Makes a call that gives an object.
fn owned<T>(make: impl FnOnce(*mut *mut T) -> Status) -> Result<NonNull<T>, String> {
    let mut object = ptr::null_mut();
    call(|| make(&mut object))?;
    NonNull::new(object).ok_or_else(|| "the library gave nothing".to_owned())
}

/// A copy of a string of the library's; empty if it is null.
///
/// # Safety
///
/// `string` is null or ends in a NUL.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: it is not null, and ends in a NUL, as the caller promises.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

fn string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
