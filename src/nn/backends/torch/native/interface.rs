//! The shim's interface as `shim.h` has it: what is passed, and the functions.

use std::ffi::{c_char, c_void};

use libloading::Library;

/// `PROPLET_TORCH_INTERFACE`.
pub(super) const INTERFACE: u32 = 1;

#[repr(C)]
pub(super) struct ErrorText {
    pub(super) text: *mut c_char,
    pub(super) size: usize,
}

#[repr(C)]
pub(super) struct RawInput {
    pub(super) name: *const c_char,
    pub(super) kind: i32,
    pub(super) optional: i32,
}

#[repr(C)]
pub(super) struct RawOutput {
    pub(super) name: *const c_char,
    pub(super) element: i32,
    pub(super) rank: usize,
    pub(super) shape: *const i64,
    pub(super) data: *const u8,
    pub(super) bytes: usize,
}

#[repr(C)]
pub(super) struct RawModel([u8; 0]);
#[repr(C)]
pub(super) struct RawContext([u8; 0]);
#[repr(C)]
pub(super) struct RawTensor([u8; 0]);

pub(super) type Status = i32;
pub(super) type Release = Option<unsafe extern "C" fn(*mut c_void)>;

/// Declares the functions as a table that is filled from the library.
macro_rules! functions {
    ($($name:ident: $ty:ty,)*) => {
        pub(super) struct Functions {
            $(pub(super) $name: $ty,)*
        }

        impl Functions {
            /// # Safety
            ///
            /// The library is the shim of this interface.
            pub(super) unsafe fn of(library: &Library) -> Result<Functions, String> {
                Ok(Functions {
                    $($name: {
                        let name = concat!("proplet_torch_", stringify!($name), "\0");
                        // SAFETY: the type is the one of shim.h, which the caller vouches for.
                        let found = unsafe { library.get::<$ty>(name.as_bytes()) };
                        *found.map_err(|error| error.to_string())?
                    },)*
                })
            }
        }
    };
}

functions! {
    version: unsafe extern "C" fn() -> *const c_char,
    prepare: unsafe extern "C" fn(ErrorText) -> Status,
    thread: unsafe extern "C" fn(i32, ErrorText) -> Status,
    load: unsafe extern "C" fn(
        *const u8, usize, *const c_char, u64, *const i32, *mut *mut RawModel, ErrorText,
    ) -> Status,
    free_model: unsafe extern "C" fn(*mut RawModel),
    inputs: unsafe extern "C" fn(*const RawModel) -> usize,
    input: unsafe extern "C" fn(*const RawModel, usize) -> RawInput,
    declared_outputs: unsafe extern "C" fn(*const RawModel) -> i64,
    declared_output: unsafe extern "C" fn(*const RawModel, usize) -> *const c_char,
    stateful: unsafe extern "C" fn(*const RawModel) -> i32,
    schema: unsafe extern "C" fn(*const RawModel) -> *const c_char,
    context: unsafe extern "C" fn(*mut RawModel, u64, *mut *mut RawContext, ErrorText) -> Status,
    free_context: unsafe extern "C" fn(*mut RawContext),
    set: unsafe extern "C" fn(
        *mut RawContext, usize, i32, *const u32, usize, *const u8, Release, *mut c_void, ErrorText,
    ) -> Status,
    run: unsafe extern "C" fn(*mut RawContext, *const i32, ErrorText) -> Status,
    outputs: unsafe extern "C" fn(*const RawContext) -> usize,
    output: unsafe extern "C" fn(*const RawContext, usize) -> RawOutput,
    take: unsafe extern "C" fn(*const RawContext, usize, *mut *mut RawTensor, ErrorText) -> Status,
    free_tensor: unsafe extern "C" fn(*mut RawTensor),
}
