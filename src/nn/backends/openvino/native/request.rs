//! Inference requests and their tensors. The rules are those of [`super`].

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use openvino_sys as ov;

use super::{Compiled, Status, attempt, call, owned};

/// An inference request: one call at a time, by `&mut`.
pub(in super::super) struct InferRequest(pub(super) Arc<RawRequest>);

/// The one call that may come while another one runs.
pub(in super::super) struct Canceller(Arc<RawRequest>);

pub(super) struct RawRequest {
    pub(super) request: NonNull<ov::ov_infer_request_t>,
    // Dropped after `Drop::drop` has freed the request.
    pub(super) _model: Compiled,
}

// SAFETY: the library keeps nothing for a thread.
unsafe impl Send for RawRequest {}
// SAFETY: `InferRequest` is not `Clone` and takes `&mut` for each call, `Canceller`
// only cancels, which OpenVINO documents for any thread at any moment.
unsafe impl Sync for RawRequest {}

impl InferRequest {
    /// Starts an inference.
    pub(in super::super) fn start(&mut self) -> Result<(), String> {
        // SAFETY: the request is live, and `&mut` keeps other calls away. The tensors
        // that it writes are its own, and none is borrowed meanwhile.
        call(|| unsafe { ov::ov_infer_request_start_async(self.0.request.as_ptr()) })
    }

    /// Waits for its end. (`wait_for` would report success when its time is
    /// over.)
    pub(in super::super) fn wait(&mut self) -> Result<(), String> {
        // SAFETY: the request is live, and `&mut` keeps all but a cancel away.
        call(|| unsafe { ov::ov_infer_request_wait(self.0.request.as_ptr()) })
    }

    /// What ends an inference early.
    pub(in super::super) fn canceller(&self) -> Canceller {
        Canceller(self.0.clone())
    }

    /// The tensor of an input.
    pub(in super::super) fn input(&mut self, index: usize) -> Result<Tensor<'_>, String> {
        let request = self.0.request.as_ptr();
        let get = ov::ov_infer_request_get_input_tensor_by_index;
        // SAFETY: the request is live; an index out of range is an error.
        owned(|tensor| unsafe { get(request, index, tensor) })
            .map(|tensor| Tensor(tensor, PhantomData))
    }

    /// The tensor of an output.
    pub(in super::super) fn output(&mut self, index: usize) -> Result<Tensor<'_>, String> {
        let request = self.0.request.as_ptr();
        let get = ov::ov_infer_request_get_output_tensor_by_index;
        // SAFETY: the request is live; an index out of range is an error.
        owned(|tensor| unsafe { get(request, index, tensor) })
            .map(|tensor| Tensor(tensor, PhantomData))
    }
}

impl Canceller {
    /// Ends the inference that runs, if one does.
    pub(in super::super) fn cancel(&self) {
        // A failure would mean that there was nothing to end.
        // SAFETY: this object keeps the request live; a cancel may come at any time.
        let _ = attempt(|| unsafe { ov::ov_infer_request_cancel(self.0.request.as_ptr()) });
    }
}

impl Drop for RawRequest {
    fn drop(&mut self) {
        // SAFETY: the last owner's end, so that no canceller is left.
        unsafe { ov::ov_infer_request_free(self.request.as_ptr()) }
    }
}

/// A tensor, whose memory belongs to what `'a` borrows: no inference can run
/// while its bytes are seen.
pub(in super::super) struct Tensor<'a>(
    pub(super) NonNull<ov::ov_tensor_t>,
    PhantomData<&'a mut ()>,
);

impl Tensor<'_> {
    /// A view of bytes that the library only reads, as a model's weights.
    pub(super) fn over(bytes: &[u8]) -> Result<Tensor<'_>, String> {
        let mut dim = i64::try_from(bytes.len()).map_err(|error| error.to_string())?;
        let shape = ov::ov_shape_t { rank: 1, dims: &mut dim };
        let host = bytes.as_ptr().cast_mut().cast::<c_void>();
        let kind = ov::ov_element_type_e::U8;
        // SAFETY: the shape is copied; the bytes outlive the tensor.
        owned(|tensor| unsafe { ov::ov_tensor_create_from_host_ptr(kind, shape, host, tensor) })
            .map(|tensor| Tensor(tensor, PhantomData))
    }

    /// Changes the shape; what it held before is lost.
    pub(in super::super) fn set_shape(&mut self, shape: &[u32]) -> Result<(), String> {
        let mut dims: Vec<i64> = shape.iter().map(|&dim| i64::from(dim)).collect();
        let shape = ov::ov_shape_t { rank: dims.len() as i64, dims: dims.as_mut_ptr() };
        // SAFETY: the tensor is live, and `dims`, which the call copies, outlives it.
        call(|| unsafe { ov::ov_tensor_set_shape(self.0.as_ptr(), shape) })
    }

    /// The shape.
    pub(in super::super) fn shape(&self) -> Result<Vec<u32>, String> {
        let mut shape = ov::ov_shape_t { rank: 0, dims: ptr::null_mut() };
        let mut scalar = false;
        let get = || {
            // SAFETY: the tensor is live, and the shape a local.
            let status = unsafe { ov::ov_tensor_get_shape(self.0.as_ptr(), &mut shape) };
            // The library can't make a shape without dimensions, and nothing
            // else that it is given here could be wrong.
            scalar = status == Status::INVALID_C_PARAM;
            if scalar { Status::OK } else { status }
        };
        call(get)?;
        if scalar {
            return Ok(Vec::new());
        }
        // SAFETY: `rank` dimensions are read before they are freed.
        unsafe {
            let dim = |i| u32::try_from(*shape.dims.add(i)).unwrap_or(u32::MAX);
            let dims = (0..shape.rank.max(0) as usize).map(dim).collect();
            call(|| ov::ov_shape_free(&mut shape))?;
            Ok(dims)
        }
    }

    /// The elements. Not for strings, which are pointers.
    pub(in super::super) fn bytes(&self) -> Result<&[u8], String> {
        let (data, size) = self.memory()?;
        // SAFETY: the library says that these bytes are the tensor's; `'a`
        // keeps them from being written meanwhile.
        Ok(if size == 0 { &[] } else { unsafe { slice::from_raw_parts(data, size) } })
    }

    /// The elements, to be written.
    pub(in super::super) fn bytes_mut(&mut self) -> Result<&mut [u8], String> {
        let (data, size) = self.memory()?;
        // SAFETY: as for `bytes`, by `&mut self` and a `'a` that is exclusive.
        Ok(if size == 0 { &mut [] } else { unsafe { slice::from_raw_parts_mut(data, size) } })
    }

    fn memory(&self) -> Result<(*mut u8, usize), String> {
        let (mut data, mut size) = (ptr::null_mut(), 0);
        // SAFETY: the tensor is live, and the size a local.
        call(|| unsafe { ov::ov_tensor_get_byte_size(self.0.as_ptr(), &mut size) })?;
        if size > 0 {
            // SAFETY: as above, for the pointer.
            call(|| unsafe { ov::ov_tensor_data(self.0.as_ptr(), &mut data) })?;
            if data.is_null() {
                return Err("the tensor has no memory".to_owned());
            }
        }
        Ok((data.cast(), size))
    }
}

impl Drop for Tensor<'_> {
    fn drop(&mut self) {
        // SAFETY: the only owner's end; the memory is the request's or the caller's.
        unsafe { ov::ov_tensor_free(self.0.as_ptr()) }
    }
}
