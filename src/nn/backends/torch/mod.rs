//! PyTorch: TorchScript archives by libtorch, through a C++ library of ours
//! (`shim.cpp`) that is opened when the first model is loaded.
//!
//! What is proven of an archive before libtorch sees it is in
//! `crate::nn::torchscript`; what only libtorch can tell, the shim proves before
//! anything of the archive runs. A model that keeps a state is copied for each
//! execution context. All of it computes on the threads of [`lanes`].
#![cfg_attr(
    not(feature = "pytorch"),
    allow(dead_code, reason = "what only the backend calls is built and tested without it too")
)]

#[cfg(feature = "pytorch")]
mod backend;
#[cfg(feature = "pytorch")]
mod lanes;
mod library;
#[cfg(feature = "pytorch")]
mod model;
#[cfg(feature = "pytorch")]
mod native;

#[cfg(feature = "pytorch")]
pub(in crate::nn) use backend::Torch;
pub(in crate::nn) use library::folders;

#[cfg(all(test, feature = "pytorch"))]
mod tests;
