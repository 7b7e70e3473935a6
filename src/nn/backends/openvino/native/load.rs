//! From a file to the process's library. The rules are those of [`super`].
//!
//! The bindings hold one library, the first that they load, for the life of the
//! process. So a file is looked at before, through a handle of its own: one
//! that is too old leaves room for the next.

use std::ffi::c_int;
use std::fs;
use std::path::Path;
use std::ptr;

use libloading::Library;
use openvino_sys as ov;

use super::{call, text};

/// The oldest version whose numbering of element types is today's.
const OLDEST: (u32, u32) = (2025, 1);

/// The functions that are called here. The bindings panic when one is missing,
/// so their names are looked for in the library's file before it is loaded.
pub(in super::super) const FUNCTIONS: &[&str] = &[
    "ov_available_devices_free",
    "ov_compiled_model_create_infer_request",
    "ov_compiled_model_export_model",
    "ov_compiled_model_free",
    "ov_compiled_model_input_by_index",
    "ov_compiled_model_input_by_name",
    "ov_compiled_model_inputs_size",
    "ov_compiled_model_output_by_index",
    "ov_compiled_model_outputs_size",
    "ov_core_compile_model",
    "ov_core_create",
    "ov_core_free",
    "ov_core_get_available_devices",
    "ov_core_get_property",
    "ov_core_import_model",
    "ov_core_read_model",
    "ov_core_read_model_from_memory_buffer",
    "ov_core_set_property",
    "ov_free",
    "ov_get_last_err_msg",
    "ov_get_openvino_version",
    "ov_infer_request_cancel",
    "ov_infer_request_free",
    "ov_infer_request_get_input_tensor_by_index",
    "ov_infer_request_get_output_tensor_by_index",
    "ov_infer_request_set_input_tensor_by_index",
    "ov_infer_request_set_output_tensor_by_index",
    "ov_infer_request_start_async",
    "ov_infer_request_wait",
    "ov_model_free",
    "ov_output_const_port_free",
    "ov_partial_shape_free",
    "ov_port_get_any_name",
    "ov_port_get_element_type",
    "ov_port_get_partial_shape",
    "ov_shape_free",
    "ov_tensor_create",
    "ov_tensor_create_from_host_ptr",
    "ov_tensor_data",
    "ov_tensor_free",
    "ov_tensor_get_byte_size",
    "ov_tensor_get_shape",
    "ov_tensor_set_shape",
    "ov_version_free",
];

/// Loads the library and says its version.
///
/// # Errors
///
/// It is not OpenVINO's C library, too old, or can't be loaded; or the process
/// has another version already.
pub(in super::super) fn load(path: &Path) -> Result<String, String> {
    let at = path.display();
    let file = fs::read(path).map_err(|error| format!("`{at}` can't be read: {error}"))?;
    if !is_shared_library(&file) {
        return Err(format!("`{at}` is not a shared library"));
    }
    let names: std::collections::HashSet<&[u8]> = file.split(|&byte| byte == 0).collect();
    let exported = |name: &&&str| {
        // macOS puts an underscore before each name.
        let underscored = format!("_{name}");
        names.contains(name.as_bytes()) || names.contains(underscored.as_bytes())
    };
    if let Some(missing) = FUNCTIONS.iter().find(|name| !exported(name)) {
        return Err(format!(
            "`{at}` is OpenVINO's C library of a version before {}.{}, or not its C library: it has \
             no `{missing}`",
            OLDEST.0, OLDEST.1
        ));
    }
    // SAFETY: its initialisers run, as they will when it is used.
    let candidate = unsafe { Library::new(path) }
        .map_err(|error| format!("`{at}` can't be loaded: {error}"))?;
    let version = version_of(&candidate).map_err(|error| format!("`{at}`: {error}"))?;
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let (year, release) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (year, release) < OLDEST {
        let (oldest, first) = OLDEST;
        return Err(format!(
            "OpenVINO {version} found at `{at}`, {oldest}.{first} or newer is needed"
        ));
    }
    ov::load_from(path.to_owned()).map_err(|error| format!("`{at}` can't be loaded: {error}"))?;
    // The bindings have it now; one that was refused has been unloaded.
    drop(candidate);
    let loaded = version_in_use()?;
    if loaded != version {
        return Err(format!(
            "`{at}` is version {version}, and this process has loaded {loaded} already: start it \
             again"
        ));
    }
    Ok(version)
}

/// As the two systems that have OpenVINO write them.
fn is_shared_library(file: &[u8]) -> bool {
    const ELF: &[u8] = b"\x7fELF";
    const MACH_O: [[u8; 4]; 2] = [[0xcf, 0xfa, 0xed, 0xfe], [0xca, 0xfe, 0xba, 0xbe]];
    file.starts_with(ELF) || MACH_O.iter().any(|magic| file.starts_with(magic))
}

fn version_of(library: &Library) -> Result<String, String> {
    type Get = unsafe extern "C" fn(*mut ov::ov_version_t) -> c_int;
    type Free = unsafe extern "C" fn(*mut ov::ov_version_t);
    let mut version = ov::ov_version_t { buildNumber: ptr::null(), description: ptr::null() };
    // SAFETY: the types are those of the C header, whose status is an `int`;
    // the strings are read before they are freed.
    unsafe {
        let get = library.get::<Get>(b"ov_get_openvino_version\0");
        let free = library.get::<Free>(b"ov_version_free\0");
        let (get, free) = (get.map_err(|e| e.to_string())?, free.map_err(|e| e.to_string())?);
        let status = get(&mut version);
        if status != 0 {
            return Err(format!("it does not tell its version: status {status}"));
        }
        let text = text(version.buildNumber);
        free(&mut version);
        Ok(text)
    }
}

fn version_in_use() -> Result<String, String> {
    let mut version = ov::ov_version_t { buildNumber: ptr::null(), description: ptr::null() };
    // SAFETY: the strings are read before they are freed.
    unsafe {
        call(|| ov::ov_get_openvino_version(&mut version))?;
        let text = text(version.buildNumber);
        ov::ov_version_free(&mut version);
        Ok(text)
    }
}
