//! `wasi_ephemeral_nn` for core modules: the guest's memory on one side, a
//! task's [`NnCtx`] on the other.
//!
//! The ABI is that of `wasi-nn.witx`. These are functions of our own because
//! those of `wasmtime-wasi-nn` panic on a bad pointer and on a shared memory,
//! copy each tensor once more, and tell nobody why they refused. Here a bad
//! pointer, or a name that is not UTF-8, ends the task with a sentence;
//! everything else is an errno and a sentence in the task's report.

use wasmtime::{Caller, Extern, Linker};

use super::{interrupted, missing};
use crate::nn::context::{NnCtx, rank};
use crate::nn::refusal::{Errno, Halt, Refusal};
use crate::nn::tensors::MAX_RANK;

/// The module's name in imports.
pub const MODULE: &str = "wasi_ephemeral_nn";

/// The most builders that are even looked at; no encoding takes more than two.
const MAX_BUILDERS: u32 = 16;

/// Bytes of a `$graph_builder`: pointer and length.
const BUILDER: u32 = 8;

/// Bytes of a `$tensor`: dimensions (pointer, length), type (one byte at 8),
/// data (pointer at 12, length).
const TENSOR: u32 = 20;

/// Defines `wasi_ephemeral_nn`. `get` finds a task's context in the store's
/// data; a task without one has no wasi-nn, and calling it ends the task.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    get: impl Fn(&mut T) -> Option<&mut NnCtx> + Copy + Send + Sync + 'static,
) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "load",
        move |caller: Caller<'_, T>,
              builders: u32,
              len: u32,
              encoding: u32,
              target: u32,
              out: u32| {
            call("load", caller, get, |nn, mut memory| {
                memory.slot(out)?;
                let array = memory.slice("the array of builders", builders, len.into(), BUILDER)?;
                if len > MAX_BUILDERS {
                    let text = format!("{len} builders are more than any encoding takes");
                    return Err(nn.refuse("load", Refusal::argument(text)).into());
                }
                let mut parts = Vec::with_capacity(len as usize);
                for builder in array.chunks_exact(BUILDER as usize) {
                    parts.push(memory.slice(
                        "a builder",
                        word(builder, 0),
                        word(builder, 4).into(),
                        1,
                    )?);
                }
                let graph = nn.load(encoding, target, &parts)?;
                memory.put(out, graph)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "load_by_name",
        move |caller: Caller<'_, T>, name: u32, len: u32, out: u32| {
            call("load_by_name", caller, get, |nn, mut memory| {
                memory.slot(out)?;
                let name = memory.slice("the graph's name", name, len.into(), 1)?;
                let name = std::str::from_utf8(name)
                    .map_err(|_| Stop::Ends("the graph's name is not UTF-8".to_owned()))?;
                let graph = nn.load_by_name(name)?;
                memory.put(out, graph)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "init_execution_context",
        move |caller: Caller<'_, T>, graph: u32, out: u32| {
            call("init_execution_context", caller, get, |nn, mut memory| {
                memory.slot(out)?;
                let context = nn.init_execution_context(graph)?;
                memory.put(out, context)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "set_input",
        move |caller: Caller<'_, T>, context: u32, index: u32, tensor: u32| {
            call("set_input", caller, get, |nn, memory| {
                let tensor = memory.slice("the tensor", tensor, 1, TENSOR)?;
                let dims = word(tensor, 4);
                let shape = memory.slice("the tensor's shape", word(tensor, 0), dims.into(), 4)?;
                let data = memory.slice(
                    "the tensor's data",
                    word(tensor, 12),
                    word(tensor, 16).into(),
                    1,
                )?;
                if dims as usize > MAX_RANK {
                    return Err(nn.refuse("set_input", rank(dims as usize)).into());
                }
                let mut dims = [0; MAX_RANK];
                for (dim, bytes) in dims.iter_mut().zip(shape.chunks_exact(4)) {
                    *dim = word(bytes, 0);
                }
                Ok(nn.set_input(context, index, tensor[8], &dims[..shape.len() / 4], data)?)
            })
        },
    )?;
    linker.func_wrap(MODULE, "compute", move |caller: Caller<'_, T>, context: u32| {
        call("compute", caller, get, |nn, _| Ok(nn.compute(context)?))
    })?;
    linker.func_wrap(
        MODULE,
        "get_output",
        move |caller: Caller<'_, T>, context: u32, index: u32, buffer: u32, len: u32, out: u32| {
            call("get_output", caller, get, |nn, mut memory| {
                memory.slot(out)?;
                let buffer = memory.range("the output buffer", buffer, len.into(), 1)?;
                let written = nn.get_output(context, index, &mut memory.0[buffer])?;
                memory.put(out, written)
            })
        },
    )?;
    Ok(())
}

/// Why a call does not succeed.
enum Stop {
    Halt(Halt),
    /// The task ends with this sentence.
    Ends(String),
}

impl From<Halt> for Stop {
    fn from(halt: Halt) -> Stop {
        Stop::Halt(halt)
    }
}

/// Runs one call of the guest's; the result is its `nn_errno`.
fn call<T: 'static>(
    name: &'static str,
    mut caller: Caller<'_, T>,
    get: impl Fn(&mut T) -> Option<&mut NnCtx>,
    body: impl FnOnce(&mut NnCtx, Memory<'_>) -> Result<(), Stop>,
) -> wasmtime::Result<u32> {
    let exported = caller.get_export("memory");
    let (bytes, data, refusal) = match exported {
        Some(Extern::Memory(memory)) => {
            let (bytes, data) = memory.data_and_store_mut(&mut caller);
            (bytes, data, None)
        }
        other => {
            let refusal = match other {
                Some(Extern::SharedMemory(_)) => Refusal::new(
                    Errno::UnsupportedOperation,
                    "the guest's memory is shared between threads, which wasi-nn is not made for",
                ),
                _ => Refusal::new(Errno::MissingMemory, "the guest exports no memory of that name"),
            };
            (&mut [][..], caller.data_mut(), Some(refusal))
        }
    };
    let Some(nn) = get(data) else {
        return Err(missing(name));
    };
    let result = match refusal {
        Some(refusal) => Err(nn.refuse(name, refusal).into()),
        None => body(nn, Memory(bytes)),
    };
    match result {
        Ok(()) => Ok(0),
        Err(Stop::Halt(Halt::Refused(refusal))) => Ok(refusal.errno as u32),
        Err(Stop::Halt(Halt::Cancelled(reason))) => Err(interrupted(name, reason)),
        Err(Stop::Ends(sentence)) => Err(wasmtime::Error::msg(format!("`{name}`: {sentence}"))),
    }
}

/// The guest's linear memory.
struct Memory<'a>(&'a mut [u8]);

impl Memory<'_> {
    /// `count` elements of `size` bytes at `start`, or the task ends.
    fn range(
        &self,
        what: &str,
        start: u32,
        count: u64,
        size: u32,
    ) -> Result<std::ops::Range<usize>, Stop> {
        // At most 2^32 elements of at most 20 bytes: no overflow.
        let len = count * u64::from(size);
        let end = u64::from(start) + len;
        if end > self.0.len() as u64 {
            return Err(Stop::Ends(format!(
                "{what} ({len} bytes at {start:#x}) lies outside the guest's memory"
            )));
        }
        Ok(start as usize..end as usize)
    }

    fn slice(&self, what: &str, start: u32, count: u64, size: u32) -> Result<&[u8], Stop> {
        Ok(&self.0[self.range(what, start, count, size)?])
    }

    /// Proves the place of a result before any work is done for it.
    fn slot(&self, out: u32) -> Result<(), Stop> {
        self.range("the place of the result", out, 1, 4).map(drop)
    }

    fn put(&mut self, out: u32, value: u32) -> Result<(), Stop> {
        let slot = self.range("the place of the result", out, 1, 4)?;
        self.0[slot].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

/// The little-endian `u32` at `at`, which is inside.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
