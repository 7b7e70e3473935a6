//! A context of a model: inputs, runs, and outputs with their memory.

use super::interface::{RawContext, RawTensor};
use super::{Failed, Shim, called, nothing, text};
use crate::nn::backends::torch::lanes::Flag;
use crate::nn::bytes::Bytes;
use crate::nn::tensors::Element;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use wasmtime_wasi_nn::wit::TensorType;

/// An output of the last run.
pub(in super::super) struct Output<'a> {
    pub(in super::super) name: String,
    pub(in super::super) element: Element,
    pub(in super::super) shape: &'a [i64],
    pub(in super::super) data: &'a [u8],
}

/// A context: one call at a time, by `&mut`.
pub(in super::super) struct Context {
    pub(super) context: NonNull<RawContext>,
    pub(super) shim: Arc<Shim>,
}

// SAFETY: libtorch keeps nothing of it for a thread.
unsafe impl Send for Context {}
// SAFETY: what takes `&self` reads what only calls with `&mut` change.
unsafe impl Sync for Context {}

impl Context {
    /// Copies `data`, as many bytes as the shape says, into an input.
    pub(in super::super) fn write(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: &[u8],
    ) -> Result<(), Failed> {
        let (set, context) = (self.shim.functions.set, self.context.as_ptr());
        let (dims, rank, bytes) = (shape.as_ptr(), shape.len(), data.as_ptr());
        // SAFETY: the context is live; shape and bytes are copied, and as long as they say,
        // which the caller has proven.
        called(|error| unsafe {
            set(context, index, number(ty), dims, rank, bytes, None, ptr::null_mut(), error)
        })
    }

    /// Makes `data` an input.
    pub(in super::super) fn give(
        &mut self,
        index: usize,
        ty: TensorType,
        shape: &[u32],
        data: Bytes,
    ) -> Result<(), Failed> {
        /// Drops what `give` has handed over.
        unsafe extern "C" fn release(owner: *mut c_void) {
            // SAFETY: it is the box that `give` has let go, and this is called once.
            drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
        }
        let (set, context) = (self.shim.functions.set, self.context.as_ptr());
        let (dims, rank) = (shape.as_ptr(), shape.len());
        let mut data = Box::new(data);
        let bytes = data.as_mut_ptr().cast_const();
        let owner = Box::into_raw(data).cast::<c_void>();
        // SAFETY: the context is live; the shape is copied; the bytes, as many as it says, stay
        // where they are until the shim calls `release`, which it does once, also when it
        // fails. Nothing else refers to them from here on.
        called(|error| unsafe {
            set(context, index, number(ty), dims, rank, bytes, Some(release), owner, error)
        })
    }

    pub(in super::super) fn run(&mut self, flag: &Flag) -> Result<(), Failed> {
        let (run, context) = (self.shim.functions.run, self.context.as_ptr());
        // SAFETY: the context is live, and `&mut` keeps other calls away; the flag is read
        // until this returns.
        called(|error| unsafe { run(context, flag.as_ptr(), error) })
    }

    pub(in super::super) fn outputs(&self) -> usize {
        // SAFETY: the context is live.
        unsafe { (self.shim.functions.outputs)(self.context.as_ptr()) }
    }

    /// The output of an index that is one.
    pub(in super::super) fn output(&self, index: usize) -> Output<'_> {
        // SAFETY: the context is live, and the index is one. What it tells of stays until a
        // call that takes `&mut`; an empty tensor may be nowhere.
        unsafe {
            let raw = (self.shim.functions.output)(self.context.as_ptr(), index);
            Output {
                name: text(raw.name),
                element: element(raw.element),
                shape: slice(raw.shape, raw.rank),
                data: slice(raw.data, raw.bytes),
            }
        }
    }

    /// The output of an index that is one, with its memory.
    pub(in super::super) fn take(&self, index: usize) -> Result<Taken, Failed> {
        let mut tensor = ptr::null_mut();
        let (take, context) = (self.shim.functions.take, self.context.as_ptr());
        // SAFETY: the context is live, and the index is one.
        called(|error| unsafe { take(context, index, &mut tensor, error) })?;
        let tensor = NonNull::new(tensor).ok_or_else(nothing)?;
        let output = self.output(index);
        let (data, size) = (output.data.as_ptr(), output.data.len());
        Ok(Taken { tensor, data, size, shim: self.shim.clone() })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        unsafe { (self.shim.functions.free_context)(self.context.as_ptr()) }
    }
}

/// An output that stays as it is.
pub(in super::super) struct Taken {
    tensor: NonNull<RawTensor>,
    data: *const u8,
    size: usize,
    shim: Arc<Shim>,
}

// SAFETY: nobody writes to it: a run makes tensors of its own, and copies what its model
// keeps.
unsafe impl Send for Taken {}
// SAFETY: as above.
unsafe impl Sync for Taken {}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the tensor's memory, which is there as long as the tensor is.
        unsafe { slice(self.data, self.size) }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: it is not used any more.
        unsafe { (self.shim.functions.free_tensor)(self.tensor.as_ptr()) }
    }
}

/// # Safety
///
/// So many live values that nobody changes for `'a`, or null.
unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    match data.is_null() || count == 0 {
        true => &[],
        // SAFETY: as the caller says.
        false => unsafe { std::slice::from_raw_parts(data, count) },
    }
}

fn number(ty: TensorType) -> i32 {
    match ty {
        TensorType::Fp16 => 0,
        TensorType::Fp32 => 1,
        TensorType::Fp64 => 2,
        TensorType::U8 => 3,
        TensorType::I32 => 4,
        TensorType::I64 => 5,
        TensorType::Bf16 => 6,
    }
}

fn element(number: i32) -> Element {
    match number {
        0 => Element::Nn(TensorType::Fp16),
        1 => Element::Nn(TensorType::Fp32),
        2 => Element::Nn(TensorType::Fp64),
        3 => Element::Nn(TensorType::U8),
        4 => Element::Nn(TensorType::I32),
        5 => Element::Nn(TensorType::I64),
        6 => Element::Nn(TensorType::Bf16),
        7 => Element::Other("boolean", Some(8)),
        8 => Element::Other("i8", Some(8)),
        _ => Element::Other("i16", Some(16)),
    }
}
