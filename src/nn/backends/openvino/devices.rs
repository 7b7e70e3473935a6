//! Which of OpenVINO's devices a guest's target is.

use wasmtime_wasi_nn::wit::ExecutionTarget;

use super::config::Devices;
use crate::nn::refusal::{Errno, Refusal};

/// Those that spread a model over others.
const SPREADING: [&str; 4] = ["AUTO", "BATCH", "HETERO", "MULTI"];

impl Devices {
    /// The device of a target; `available` are those that are there. A list of
    /// `AUTO` is given without those that are not.
    pub(super) fn of(
        &self,
        target: ExecutionTarget,
        available: &[String],
    ) -> Result<String, Refusal> {
        let (name, device) = match target {
            ExecutionTarget::Cpu => ("cpu", &self.cpu),
            ExecutionTarget::Gpu => ("gpu", &self.gpu),
            ExecutionTarget::Tpu => ("tpu", &self.tpu),
        };
        let there = available.join(", ");
        let unsupported = |text: String| Refusal::new(Errno::UnsupportedOperation, text);
        let Some(device) = device else {
            return Err(unsupported(format!(
                "this worker has no device for a {}: OpenVINO has {there} on this machine, and \
                 --nn-devices names those of the targets",
                name.to_uppercase()
            )));
        };
        let there_is = |part: &str| available.iter().any(|found| is(found, part));
        let missing: Vec<_> = parts(device).filter(|part| !there_is(part)).collect();
        if missing.is_empty() {
            return Ok(device.clone());
        }
        // AUTO goes without some, as long as one is there; but it fails on the
        // plugin of a device that is not.
        if let Some(list) = device.strip_prefix("AUTO:") {
            let left: Vec<_> =
                list.split(',').map(str::trim).filter(|p| !missing.contains(p)).collect();
            if left.iter().any(|part| !part.starts_with('-')) {
                return Ok(format!("AUTO:{}", left.join(",")));
            }
        }
        Err(unsupported(format!(
            "there is no {}: OpenVINO has {there} on this machine (--nn-devices has {name}={device})",
            missing.join(" and no ")
        )))
    }
}

/// The devices behind a device: itself, or those that it spreads over.
pub(super) fn parts(device: &str) -> impl Iterator<Item = &str> {
    let (spreads, list) = match device.split_once(':') {
        Some((_, list)) => (false, list),
        None => (SPREADING.contains(&device), device),
    };
    // `AUTO` alone takes what there is; `-GPU` is one that it is to leave out.
    list.split(',').map(str::trim).filter(move |part| !spreads && !part.starts_with('-'))
}

/// Whether a device that is there is the one that is named: `GPU` is `GPU.0`.
fn is(found: &str, named: &str) -> bool {
    // MULTI:CPU(4) says how many requests it makes.
    let named = named.split('(').next().unwrap_or(named);
    found.strip_prefix(named).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(gpu: &str, available: &[&str]) -> Result<String, String> {
        let devices = Devices { gpu: Some(gpu.to_owned()), ..Devices::default() };
        let available: Vec<_> = available.iter().map(|&device| device.to_owned()).collect();
        let device = devices.of(ExecutionTarget::Gpu, &available);
        device.map_err(|refusal| refusal.text)
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_what_there_is() {
        assert_eq!(
            of("GPU", &["CPU"]).expect_err("no GPU"),
            "there is no GPU: OpenVINO has CPU on this machine (--nn-devices has gpu=GPU)"
        );
        for (device, missing) in [
            ("HETERO:GPU,CPU", "GPU"),
            ("MULTI:NPU,CPU(4)", "NPU"),
            ("AUTO:GPU,NPU", "GPU and no NPU"),
        ] {
            let text = of(device, &["CPU"]).expect_err(device);
            assert!(text.starts_with(&format!("there is no {missing}: ")), "{text}");
        }
        assert!(of("GPU.1", &["CPU", "GPU.0"]).is_err());
        let devices = Devices::default();
        let none = devices.of(ExecutionTarget::Tpu, &["CPU".to_owned()]);
        let text = none.expect_err("no device").text;
        assert!(text.contains("no device for a TPU: OpenVINO has CPU"), "{text}");
    }

    #[test]
    fn a_device_that_is_there_is_found_by_its_name_and_in_a_list() {
        for device in ["CPU", "AUTO", "AUTO:CPU,-GPU", "AUTO:-GPU", "MULTI:CPU(2)", "HETERO:CPU"] {
            assert_eq!(of(device, &["CPU"]).as_deref(), Ok(device));
        }
        assert_eq!(of("AUTO:GPU,CPU", &["CPU"]).as_deref(), Ok("AUTO:CPU"));
        for device in ["GPU", "GPU.0", "AUTO:GPU,CPU", "HETERO:GPU.0,CPU"] {
            assert_eq!(of(device, &["CPU", "GPU.0"]).as_deref(), Ok(device));
        }
    }
}
