//! Compiled models and their ports. The rules are those of [`super`].

use super::{Status, attempt, call, owned, string, text};
use crate::nn::source::Source;
use openvino_sys as ov;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// A compiled model, its ports and its requests' maker. Shared with its
/// requests, so that the weights that it refers to go last.
#[derive(Clone)]
pub(in super::super) struct CompiledModel(Arc<OwnedModel>);

struct OwnedModel {
    model: NonNull<ov::ov_compiled_model_t>,
    // Dropped after `Drop::drop` has freed the model.
    _source: Source,
    /// What it was imported from, or nothing.
    _exported: Vec<u8>,
}

// SAFETY: `ov::CompiledModel` keeps nothing for a thread, and documents itself
// as thread safe.
unsafe impl Send for OwnedModel {}
// SAFETY: as above.
unsafe impl Sync for OwnedModel {}

impl Drop for OwnedModel {
    fn drop(&mut self) {
        // SAFETY: the only owner's end; each request holds this object, so that all
        // of them are freed.
        unsafe { ov::ov_compiled_model_free(self.model.as_ptr()) }
    }
}

/// A port as the library tells it.
pub(in super::super) struct RawPort {
    pub(in super::super) name: String,
    /// `ov_element_type_e` as a number: a newer library may know more.
    pub(in super::super) element: u32,
    /// Both ends of each dimension, -1 for no end; none if the rank is open.
    pub(in super::super) shape: Option<Vec<(i64, i64)>>,
}

impl CompiledModel {
    pub(super) fn new(
        model: NonNull<ov::ov_compiled_model_t>,
        source: &Source,
        exported: Vec<u8>,
    ) -> CompiledModel {
        let source = source.clone();
        CompiledModel(Arc::new(OwnedModel { model, _source: source, _exported: exported }))
    }

    /// The inputs, in order.
    pub(in super::super) fn inputs(&self) -> Result<Vec<RawPort>, String> {
        self.ports(ov_inputs_size, ov_input)
    }

    /// The outputs, in order.
    pub(in super::super) fn outputs(&self) -> Result<Vec<RawPort>, String> {
        self.ports(ov_outputs_size, ov_output)
    }

    /// The name by which [`CompiledModel::inputs`] tells the input that has this one,
    /// too.
    pub(in super::super) fn input_named(&self, name: &str) -> Option<String> {
        let name = string(name).ok()?;
        let mut raw = ptr::null_mut();
        let (model, get) = (self.0.model.as_ptr(), ov::ov_compiled_model_input_by_name);
        // That there is none is no news.
        // SAFETY: the model is live, the name ends in NUL, and the port is a local.
        attempt(|| unsafe { get(model, name.as_ptr(), &mut raw) }).ok()?;
        NonNull::new(raw).and_then(|raw| Port(raw).read().ok()).map(|port| port.name)
    }

    /// Writes what [`super::Core::import`] takes to a file.
    pub(in super::super) fn export(&self, path: &str) -> Result<(), String> {
        let path = string(path)?;
        let model = self.0.model.as_ptr();
        // SAFETY: the model is live, and the path ends in NUL and outlives the call.
        call(|| unsafe { ov::ov_compiled_model_export_model(model, path.as_ptr()) })
    }

    /// The library's object, which lives as long as a clone of this.
    pub(super) fn as_ptr(&self) -> *mut ov::ov_compiled_model_t {
        self.0.model.as_ptr()
    }

    fn ports(&self, size: SizeOf, port: PortOf) -> Result<Vec<RawPort>, String> {
        let (model, mut count) = (self.0.model.as_ptr(), 0);
        // SAFETY: the model is live; `size` writes one number to the local.
        call(|| unsafe { size(model, &mut count) })?;
        // SAFETY: the model is live, and an index out of range is an error.
        let get = |index| Port(owned(|raw| unsafe { port(model, index, raw) })?).read();
        (0..count).map(get).collect()
    }
}

type SizeOf = unsafe fn(*const ov::ov_compiled_model_t, *mut usize) -> Status;
type PortOf = unsafe fn(
    *const ov::ov_compiled_model_t,
    usize,
    *mut *mut ov::ov_output_const_port_t,
) -> Status;

use ov::{
    ov_compiled_model_input_by_index as ov_input, ov_compiled_model_inputs_size as ov_inputs_size,
    ov_compiled_model_output_by_index as ov_output,
    ov_compiled_model_outputs_size as ov_outputs_size,
};

struct Port(NonNull<ov::ov_output_const_port_t>);

impl Port {
    fn read(&self) -> Result<RawPort, String> {
        let port = self.0.as_ptr();
        let mut name = ptr::null_mut();
        // A port without a name is an error to the library.
        // SAFETY: the port is live, and the name a local.
        let named = attempt(|| unsafe { ov::ov_port_get_any_name(port, &mut name) });
        let name = match named {
            Ok(()) => {
                // SAFETY: the call gave a string that ends in NUL, ours to free.
                unsafe {
                    let copy = text(name);
                    ov::ov_free(name);
                    copy
                }
            }
            Err(_) => String::new(),
        };
        let mut element = 0u32;
        // SAFETY: the enumeration is a `u32`; read as one, a number that these
        // bindings don't know is no undefined behaviour.
        call(|| unsafe { ov::ov_port_get_element_type(port, (&raw mut element).cast()) })?;
        let mut shape = ov::ov_partial_shape_t {
            rank: ov::ov_rank_t { min: 0, max: 0 },
            dims: ptr::null_mut(),
        };
        // SAFETY: the port is live; a static rank comes with that many dimensions, which are
        // read before they are freed.
        unsafe {
            call(|| ov::ov_port_get_partial_shape(port, &mut shape))?;
            let rank = shape.rank;
            let dims = (rank.min == rank.max && rank.min >= 0).then(|| {
                let dim = |i| {
                    let dim = *shape.dims.add(i);
                    (dim.min, dim.max)
                };
                (0..rank.min as usize).map(dim).collect()
            });
            ov::ov_partial_shape_free(&mut shape);
            Ok(RawPort { name, element, shape: dims })
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // SAFETY: the only owner's end.
        unsafe { ov::ov_output_const_port_free(self.0.as_ptr()) }
    }
}
