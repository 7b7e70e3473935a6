//! `wasi:nn` for components: the release candidate `0.2.0-rc-2024-10-28`,
//! over the same [`NnCtx`] as core modules.
//!
//! These are functions of our own, typed but not generated, because a generated
//! host is handed each list as a `Vec`: a model's 14 MB of weights (30 ms for
//! each task, see `benches/README.md`), and a tensor of whatever size, would be
//! copied before anything could say no. Here a list stays in the guest's memory
//! until its size is proven. A model's bytes are compared or compiled from
//! there. A tensor's are copied out of it once, into the task's quota, and an
//! output's are copied into it once, from where it was computed.
//!
//! What a guest gets wrong is an `error` with the full sentence. A cancelled
//! call, a flood of tensors or errors, and a broken list end the task: no guest
//! can go on after a trap.

use wasmtime::component::{ComponentNamedList, Lift, Linker, LinkerInstance, Lower};
use wasmtime::component::{Resource, ResourceType, WasmList, WasmStr};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi_nn::wit::{ExecutionTarget, GraphEncoding, TensorType};

use self::values::{ErrorCode, List};
use super::{interrupted, missing};
use crate::nn::context::NnCtx;
use crate::nn::refusal::{Errno, Halt, Refusal};

/// The most builders that are even looked at; no encoding takes more than two.
const MAX_BUILDERS: usize = 16;

/// The most bytes of a graph's or an input's name.
const MAX_NAME: usize = 64 << 10;

// What handles stand for; the objects are in the task's [`NnCtx`].
enum Tensor {}
enum Graph {}
enum Execution {}
enum Error {}

type Fallible<R> = Result<R, Resource<Error>>;

/// Defines the four interfaces of `wasi:nn`. `get` finds a task's context in
/// the store's data; a task without one has no wasi-nn, and calling it ends the
/// task.
pub(crate) fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> &mut Option<NnCtx>,
) -> wasmtime::Result<()> {
    tensors(Interface { linker: linker.instance("wasi:nn/tensor@0.2.0-rc-2024-10-28")?, get })?;
    graphs(Interface { linker: linker.instance("wasi:nn/graph@0.2.0-rc-2024-10-28")?, get })?;
    inference(Interface {
        linker: linker.instance("wasi:nn/inference@0.2.0-rc-2024-10-28")?,
        get,
    })?;
    errors(Interface { linker: linker.instance("wasi:nn/errors@0.2.0-rc-2024-10-28")?, get })
}

fn tensors<T: 'static>(mut nn: Interface<'_, T>) -> wasmtime::Result<()> {
    nn.resource::<Tensor>("tensor", |nn, tensor| drop(nn.take_tensor(tensor)))?;
    nn.call(
        "[constructor]tensor",
        |nn, store, (shape, ty, data): (WasmList<u32>, TensorType, WasmList<u8>)| {
            let tensor = nn.new_tensor(shape.as_le_slice(&*store), ty, data.as_le_slice(&*store));
            let made =
                tensor.map_err(|refusal| wasmtime::Error::msg(format!("`tensor`: {refusal}")))?;
            Ok((Resource::<Tensor>::new_own(made),))
        },
    )?;
    nn.call("[method]tensor.dimensions", |nn, _, (tensor,): (Resource<Tensor>,)| {
        Ok((tensor_of(nn, &tensor)?.shape.clone(),))
    })?;
    nn.call("[method]tensor.ty", |nn, _, (tensor,): (Resource<Tensor>,)| {
        Ok((tensor_of(nn, &tensor)?.ty,))
    })?;
    nn.call("[method]tensor.data", |nn, _, (tensor,): (Resource<Tensor>,)| {
        Ok((List(tensor_of(nn, &tensor)?.data()),))
    })
}

fn graphs<T: 'static>(mut nn: Interface<'_, T>) -> wasmtime::Result<()> {
    nn.resource::<Graph>("graph", NnCtx::drop_graph)?;
    nn.call(
        "load",
        |nn, store, (builders, encoding, target): (WasmList<WasmList<u8>>, GraphEncoding, ExecutionTarget)| {
            if builders.len() > MAX_BUILDERS {
                let text = format!("{} builders are more than any encoding takes", builders.len());
                let refused = nn.refuse("load", Refusal::argument(text));
                return fallible("load", nn, Err(refused));
            }
            // What a builder costs here is nothing: the model's limit bounds it.
            let fuel = store.hostcall_fuel();
            store.set_hostcall_fuel(usize::MAX);
            let lists = builders.iter(store.as_context_mut()).and_then(Iterator::collect);
            store.set_hostcall_fuel(fuel);
            let lists: Vec<WasmList<u8>> = lists?;
            let parts: Vec<&[u8]> = lists.iter().map(|list| list.as_le_slice(&*store)).collect();
            let loaded = nn.load_typed(encoding, target, &parts);
            fallible("load", nn, loaded.map(Resource::<Graph>::new_own))
        },
    )?;
    nn.call("load-by-name", |nn, store, (name,): (WasmStr,)| {
        let name = name.to_str(&*store)?;
        let loaded = nn.load_by_name(short(&name));
        fallible("load-by-name", nn, loaded.map(Resource::<Graph>::new_own))
    })?;
    nn.call("[method]graph.init-execution-context", |nn, _, (graph,): (Resource<Graph>,)| {
        let made = nn.init_execution_context(graph.rep());
        fallible("init-execution-context", nn, made.map(Resource::<Execution>::new_own))
    })
}

fn inference<T: 'static>(mut nn: Interface<'_, T>) -> wasmtime::Result<()> {
    nn.resource::<Execution>("graph-execution-context", NnCtx::drop_execution)?;
    nn.call(
        "[method]graph-execution-context.compute",
        |nn,
         store,
         (context, named): (Resource<Execution>, WasmList<(WasmStr, Resource<Tensor>)>)| {
            // The guest has given all of them away, whatever becomes of the
            // call. There are no more than it holds tensors: another handle
            // is no handle, which ends the task.
            let mut inputs = Vec::new();
            for at in 0..named.len() {
                let Some(input) = named.get(store.as_context_mut(), at) else { break };
                let (name, tensor) = input?;
                let name = name.to_str(&*store)?;
                let name = short(&name).to_owned();
                inputs.push((name, nn.take_tensor(tensor.rep()).ok_or_else(unknown)?));
            }
            let computed = nn.compute_named(context.rep(), inputs).map(|outputs| {
                let own = |(name, tensor)| (name, Resource::<Tensor>::new_own(tensor));
                outputs.into_iter().map(own).collect::<Vec<_>>()
            });
            fallible("compute", nn, computed)
        },
    )
}

fn errors<T: 'static>(mut nn: Interface<'_, T>) -> wasmtime::Result<()> {
    nn.resource::<Error>("error", NnCtx::drop_error)?;
    nn.call("[method]error.code", |nn, _, (error,): (Resource<Error>,)| {
        Ok((ErrorCode::from(nn.error(error.rep()).ok_or_else(unknown)?.errno),))
    })?;
    nn.call("[method]error.data", |nn, _, (error,): (Resource<Error>,)| {
        Ok((nn.error(error.rep()).ok_or_else(unknown)?.text.clone(),))
    })
}

/// An interface that is being defined.
struct Interface<'a, T: 'static> {
    linker: LinkerInstance<'a, T>,
    get: fn(&mut T) -> &mut Option<NnCtx>,
}

impl<T: 'static> Interface<'_, T> {
    /// Defines a resource, and what becomes of it when the guest drops it.
    fn resource<R: 'static>(
        &mut self,
        name: &str,
        drop: fn(&mut NnCtx, u32),
    ) -> wasmtime::Result<()> {
        let get = self.get;
        self.linker.resource(name, ResourceType::host::<R>(), move |mut store, resource| {
            if let Some(nn) = get(store.data_mut()) {
                drop(nn, resource);
            }
            Ok(())
        })
    }

    /// Defines a function. The task's context is out of the store while it
    /// runs, so that the guest's memory can be read at the same time.
    fn call<P, R>(
        &mut self,
        name: &'static str,
        body: fn(&mut NnCtx, &mut StoreContextMut<'_, T>, P) -> wasmtime::Result<R>,
    ) -> wasmtime::Result<()>
    where
        P: ComponentNamedList + Lift + 'static,
        R: ComponentNamedList + Lower + 'static,
    {
        let get = self.get;
        self.linker.func_wrap(name, move |mut store: StoreContextMut<'_, T>, params: P| {
            let Some(mut nn) = get(store.data_mut()).take() else { return Err(missing(name)) };
            let result = body(&mut nn, &mut store, params);
            *get(store.data_mut()) = Some(nn);
            result
        })
    }
}

/// The result of a call that may be refused.
fn fallible<R>(
    call: &str,
    nn: &mut NnCtx,
    result: Result<R, Halt>,
) -> wasmtime::Result<(Fallible<R>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(Halt::Refused(refusal)) => match nn.keep_error(refusal) {
            Ok(error) => Ok((Err(Resource::new_own(error)),)),
            Err(sentence) => Err(wasmtime::Error::msg(format!("`{call}`: {sentence}"))),
        },
        Err(Halt::Cancelled(reason)) => Err(interrupted(call, reason)),
    }
}

fn tensor_of<'a>(
    nn: &'a NnCtx,
    tensor: &Resource<Tensor>,
) -> wasmtime::Result<&'a crate::nn::context::resources::Tensor> {
    nn.tensor(tensor.rep()).ok_or_else(unknown)
}

/// Handles are the engine's, which gives out those that it was given.
fn unknown() -> wasmtime::Error {
    wasmtime::Error::msg("an unknown handle of wasi-nn")
}

/// No model has a longer name, and it need not be copied whole.
fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME)]
}

mod values {
    #![allow(unsafe_code, reason = "what the traits of the component model are made of")]

    use std::mem::MaybeUninit;

    use wasmtime::component::__internal::{
        CanonicalAbiInfo, InstanceType, InterfaceType, LowerContext,
    };
    use wasmtime::component::{ComponentType, Lower};

    use super::Errno;
    use crate::nn::bytes::Output;

    /// A `list<u8>` that is copied into the guest's memory from where it lies. The
    /// engine has this for slices, which a function of the host's can't return,
    /// and for vectors, which would be one copy more.
    pub(super) struct List(pub(super) Output);

    impl List {
        fn bytes(&self) -> &[u8] {
            (*self.0).as_ref()
        }
    }

    // SAFETY: all of it is that of a slice.
    unsafe impl ComponentType for List {
        type Lower = <[u8] as ComponentType>::Lower;

        const ABI: CanonicalAbiInfo = <[u8] as ComponentType>::ABI;

        fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
            <[u8] as ComponentType>::typecheck(ty, types)
        }
    }

    // SAFETY: as above.
    unsafe impl Lower for List {
        fn linear_lower_to_flat<T>(
            &self,
            cx: &mut LowerContext<'_, T>,
            ty: InterfaceType,
            dst: &mut MaybeUninit<Self::Lower>,
        ) -> wasmtime::Result<()> {
            self.bytes().linear_lower_to_flat(cx, ty, dst)
        }

        fn linear_lower_to_memory<T>(
            &self,
            cx: &mut LowerContext<'_, T>,
            ty: InterfaceType,
            offset: usize,
        ) -> wasmtime::Result<()> {
            self.bytes().linear_lower_to_memory(cx, ty, offset)
        }
    }

    /// `error-code` of `wasi:nn/errors`, in its order.
    #[derive(Clone, Copy, ComponentType, Lower)]
    #[component(enum)]
    #[repr(u8)]
    #[allow(dead_code, reason = "the whole of a type of the interface")]
    pub(super) enum ErrorCode {
        #[component(name = "invalid-argument")]
        InvalidArgument,
        #[component(name = "invalid-encoding")]
        InvalidEncoding,
        #[component(name = "timeout")]
        Timeout,
        #[component(name = "runtime-error")]
        RuntimeError,
        #[component(name = "unsupported-operation")]
        UnsupportedOperation,
        #[component(name = "too-large")]
        TooLarge,
        #[component(name = "not-found")]
        NotFound,
        #[component(name = "security")]
        Security,
        #[component(name = "unknown")]
        Unknown,
    }

    impl From<Errno> for ErrorCode {
        fn from(errno: Errno) -> ErrorCode {
            match errno {
                Errno::InvalidArgument => ErrorCode::InvalidArgument,
                Errno::InvalidEncoding => ErrorCode::InvalidEncoding,
                // Of core modules alone.
                Errno::MissingMemory => ErrorCode::Unknown,
                Errno::RuntimeError => ErrorCode::RuntimeError,
                Errno::UnsupportedOperation => ErrorCode::UnsupportedOperation,
                Errno::TooLarge => ErrorCode::TooLarge,
                Errno::NotFound => ErrorCode::NotFound,
            }
        }
    }
}

#[cfg(test)]
mod tests;
