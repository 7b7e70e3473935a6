//! Inference requests and their tensors. The rules are those of [`super`].

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openvino_sys as ov;

use super::elements::type_of;
use super::{CompiledModel, Status, attempt, call, owned};
use crate::nn::bytes::{Bytes, Kept};
use crate::nn::tensors::Element;

/// An inference request: one call at a time, by `&mut`.
pub(in super::super) struct InferRequest(pub(super) Arc<RawRequest>);

/// The one call that may come while another one runs.
pub(in super::super) struct Canceller(Arc<RawRequest>);

/// The memory of an input that is not the library's.
pub(in super::super) enum Given {
    Own(Bytes),
    /// Others have it too.
    Kept(Kept),
}

pub(super) struct RawRequest {
    request: NonNull<ov::ov_infer_request_t>,
    // What follows is dropped after `Drop::drop` has freed the request.
    /// The memory of inputs that is not the library's.
    given: Mutex<Vec<(usize, Given)>>,
    model: CompiledModel,
}

// SAFETY: the library keeps nothing for a thread.
unsafe impl Send for RawRequest {}
// SAFETY: `InferRequest` is not `Clone` and takes `&mut` for each call, `Canceller`
// only cancels, which OpenVINO documents for any thread at any moment.
unsafe impl Sync for RawRequest {}

impl CompiledModel {
    /// A new request.
    pub(in super::super) fn request(&self) -> Result<InferRequest, String> {
        let model = self.as_ptr();
        // SAFETY: the model is live, and the request keeps it so.
        let request =
            owned(|request| unsafe { ov::ov_compiled_model_create_infer_request(model, request) })?;
        let (given, model) = (Mutex::default(), self.clone());
        Ok(InferRequest(Arc::new(RawRequest { request, given, model })))
    }
}

impl InferRequest {
    /// Starts an inference.
    pub(in super::super) fn start(&mut self) -> Result<(), String> {
        // SAFETY: the request is live, and `&mut` keeps other calls away. The memory
        // of its tensors is its own: the library's, or in `given`, and none is borrowed
        // meanwhile. Whoever has taken an output keeps to what `take` says.
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

    /// Makes `bytes` the memory of an input: of this type and shape, which the
    /// caller has proven of them. The memory that it had before is free again.
    pub(in super::super) fn give(
        &mut self,
        index: usize,
        element: Element,
        shape: &[u32],
        mut bytes: Given,
    ) -> Result<(), String> {
        let memory = match &mut bytes {
            Given::Own(bytes) => bytes.as_mut_ptr().cast::<c_void>(),
            // The library takes no pointer to what it may not write to. It does not write to
            // the tensors of inputs; and if it did, the system would end the process.
            Given::Kept(kept) => kept.as_ref().as_ptr().cast_mut().cast::<c_void>(),
        };
        let tensor = created(element, shape, |kind, shape, tensor| {
            // SAFETY: the shape is copied. The library is told of `bytes.len()` bytes, which
            // outlive its use of them: they are kept until the request has another tensor
            // for this input, or is freed.
            unsafe { ov::ov_tensor_create_from_host_ptr(kind, shape, memory, tensor) }
        })?;
        // Kept before the call: one that fails may leave the request either tensor, and so
        // both stay. What more than one such call leaves would pile up.
        if self.0.given().iter().filter(|(input, _)| *input == index).count() > 1 {
            return Err("its tensor could not be replaced before".to_owned());
        }
        self.0.given().push((index, bytes));
        let (request, set) =
            (self.0.request.as_ptr(), ov::ov_infer_request_set_input_tensor_by_index);
        // SAFETY: request and tensor are live; the request keeps a reference to the tensor,
        // whose memory is in `given`. Nothing else refers to that of `Bytes` from here on:
        // they are moved there, but neither read nor written. `Kept` never changes.
        call(|| unsafe { set(request, index, tensor.0.as_ptr()) })?;
        let mut given = self.0.given();
        let newest = given.pop();
        given.retain(|(input, _)| *input != index);
        given.extend(newest);
        Ok(())
    }

    /// Whether the memory of an input may be what others have too.
    pub(in super::super) fn is_kept(&self, index: usize) -> bool {
        let kept = |given: &(usize, Given)| given.0 == index && matches!(given.1, Given::Kept(_));
        self.0.given().iter().any(kept)
    }

    /// Whether the memory of an input is this, and no other.
    pub(in super::super) fn has(&self, index: usize, kept: &Kept) -> bool {
        let given = self.0.given();
        let mut own = given.iter().filter(|(input, _)| *input == index);
        let (Some((_, Given::Kept(before))), None) = (own.next(), own.next()) else { return false };
        before.as_ref().as_ptr_range() == kept.as_ref().as_ptr_range()
    }

    /// Whether the memory of an input was given.
    pub(in super::super) fn is_given(&self, index: usize) -> bool {
        self.0.given().iter().any(|(input, _)| *input == index)
    }

    /// Gives an output new memory for the next inference, of the size that it
    /// has. What was there is then nobody's but of who has taken it.
    pub(in super::super) fn renew(&mut self, index: usize, element: Element) -> Result<(), String> {
        let shape = self.output(index)?.shape()?;
        let tensor = created(element, &shape, |kind, shape, tensor| {
            // SAFETY: the shape is copied, and the memory the library's.
            unsafe { ov::ov_tensor_create(kind, shape, tensor) }
        })?;
        let (request, set) =
            (self.0.request.as_ptr(), ov::ov_infer_request_set_output_tensor_by_index);
        // SAFETY: request and tensor are live; the request keeps a reference to the tensor.
        call(|| unsafe { set(request, index, tensor.0.as_ptr()) })
    }

    /// An output, with its memory. No inference may start while somebody has it,
    /// but after [`InferRequest::renew`].
    pub(in super::super) fn take(&mut self, index: usize) -> Result<Taken, String> {
        let tensor = self.output_tensor(index)?;
        let (data, size) = tensor.memory()?;
        Ok(Taken { _tensor: tensor, data, size, _model: self.0.model.clone() })
    }

    /// The tensor of an output.
    pub(in super::super) fn output(&mut self, index: usize) -> Result<Tensor<'_>, String> {
        self.output_tensor(index)
    }

    fn output_tensor<'a>(&self, index: usize) -> Result<Tensor<'a>, String> {
        let request = self.0.request.as_ptr();
        let get = ov::ov_infer_request_get_output_tensor_by_index;
        // SAFETY: the request is live; an index out of range is an error.
        owned(|tensor| unsafe { get(request, index, tensor) })
            .map(|tensor| Tensor(tensor, PhantomData))
    }
}

/// A tensor of its own, which `make` makes of a type and a shape.
fn created(
    element: Element,
    shape: &[u32],
    make: impl FnOnce(ov::ov_element_type_e, ov::ov_shape_t, *mut *mut ov::ov_tensor_t) -> Status,
) -> Result<Tensor<'static>, String> {
    let kind = type_of(element).ok_or("it is of a type without a name")?;
    let mut dims: Vec<i64> = shape.iter().map(|&dim| i64::from(dim)).collect();
    let shape = ov::ov_shape_t { rank: dims.len() as i64, dims: dims.as_mut_ptr() };
    owned(|tensor| make(kind, shape, tensor)).map(|tensor| Tensor(tensor, PhantomData))
}

/// An output that was taken from its request, which has other memory for its
/// next inference.
pub(in super::super) struct Taken {
    // Keeps the memory.
    _tensor: Tensor<'static>,
    data: *mut u8,
    size: usize,
    // What made the tensor, for as long as it is there.
    _model: CompiledModel,
}

// SAFETY: the library keeps nothing for a thread, and these bytes are only read.
unsafe impl Send for Taken {}
// SAFETY: as above.
unsafe impl Sync for Taken {}

impl AsRef<[u8]> for Taken {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the library has said that these bytes are the tensor's, which is kept.
        // None writes to them: an inference does not start before the request has other
        // memory, which is the rule of `take`, and the memory of an input, or of two
        // outputs, is never taken.
        if self.size == 0 { &[] } else { unsafe { slice::from_raw_parts(self.data, self.size) } }
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

impl RawRequest {
    // Each change is one step: whole whoever panicked.
    fn given(&self) -> MutexGuard<'_, Vec<(usize, Given)>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
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
