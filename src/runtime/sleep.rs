//! `poll_oneoff` that can be interrupted.
//!
//! The one of wasmtime-wasi sleeps in the operating system for as long as the
//! guest says, so a stopped task would keep its thread. This one waits on the
//! task's [`crate::cancel::Cancel`]. Files and the captured standard streams
//! are always ready, as they are there, and standard input is closed: a
//! subscription to any of them makes the call return at once.

use super::errno;
use super::sandbox::{Interrupted, TaskState};
use std::time::{Duration, Instant, SystemTime};
use wasmtime::{Caller, Extern, Linker};

// Sizes, offsets and values from the witx files: `subscription`, `event`.
const EVENT: usize = 32;
const CLOCK: u8 = 0;
const FD_WRITE: u8 = 2;
const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;
const ABSOLUTE: u16 = 1;

/// Where a version of WASI keeps the clock in a `subscription`, in bytes.
#[derive(Clone, Copy)]
struct Layout {
    clock: usize,
}

impl Layout {
    const PREVIEW_1: Layout = Layout { clock: 16 };
    /// The snapshot before it has an identifier in front of the clock.
    const PREVIEW_0: Layout = Layout { clock: 24 };

    const fn size(self) -> usize {
        self.clock + 32
    }
}

/// Puts this `poll_oneoff` in the place of the one that `linker` has.
pub(super) fn shadow(linker: &mut Linker<TaskState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let versions =
        [("wasi_snapshot_preview1", Layout::PREVIEW_1), ("wasi_unstable", Layout::PREVIEW_0)];
    for (module, layout) in versions {
        let poll =
            move |caller: Caller<'_, TaskState>, subs: u32, events: u32, n: u32, out: u32| {
                poll_oneoff(caller, layout, subs, events, n, out)
            };
        linker.func_wrap(module, "poll_oneoff", poll)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// When a subscription is due.
enum Due {
    Now,
    At(Instant),
    /// Further away than the clock can tell.
    Never,
}

struct Subscription {
    userdata: [u8; 8],
    kind: u8,
    due: Due,
}

fn poll_oneoff(
    mut caller: Caller<'_, TaskState>,
    layout: Layout,
    subscriptions: u32,
    events: u32,
    count: u32,
    ready: u32,
) -> wasmtime::Result<i32> {
    if count == 0 {
        return Ok(errno::INVAL);
    }
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("`poll_oneoff` needs the guest to export its memory as `memory`");
    };
    let (bytes, state) = memory.data_and_store_mut(&mut caller);
    let count = count as usize;
    let Some(raw) = slice(bytes, subscriptions, count.saturating_mul(layout.size())) else {
        return Ok(errno::FAULT);
    };
    let mut parsed = Vec::with_capacity(count);
    for raw in raw.chunks_exact(layout.size()) {
        match parse(raw, layout, state.clock_zero) {
            Some(subscription) => parsed.push(subscription),
            None => return Ok(errno::INVAL),
        }
    }

    let first = parsed.iter().filter_map(|s| match s.due {
        Due::Now => Some(Instant::now()),
        Due::At(at) => Some(at),
        Due::Never => None,
    });
    // Where no subscription is ever due, look again from time to time.
    let first = first.min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
    state.cancel.wait_until(first).map_err(Interrupted)?;

    let now = Instant::now();
    let due = parsed.iter().filter(|s| match s.due {
        Due::Now => true,
        Due::At(at) => at <= now,
        Due::Never => false,
    });
    let mut written = 0u32;
    for (subscription, index) in due.zip(0u32..) {
        let mut event = [0; EVENT];
        event[..8].copy_from_slice(&subscription.userdata);
        event[10] = subscription.kind;
        event[16] = 1; // bytes that can be read or written, at the least
        let offset = events.saturating_add(index.saturating_mul(EVENT as u32));
        let Some(slot) = slice_mut(bytes, offset, EVENT) else { return Ok(errno::FAULT) };
        slot.copy_from_slice(&event);
        written += 1;
    }
    let Some(slot) = slice_mut(bytes, ready, 4) else { return Ok(errno::FAULT) };
    slot.copy_from_slice(&written.to_le_bytes());
    Ok(errno::SUCCESS)
}

fn parse(raw: &[u8], layout: Layout, clock_zero: Instant) -> Option<Subscription> {
    let userdata = raw[..8].try_into().ok()?;
    let kind = raw[8];
    let due = match kind {
        CLOCK => {
            let clock = &raw[layout.clock..];
            let id = u32::from_le_bytes(clock[..4].try_into().ok()?);
            let nanos = u64::from_le_bytes(clock[8..16].try_into().ok()?);
            let flags = u16::from_le_bytes(clock[24..26].try_into().ok()?);
            let timeout = Duration::from_nanos(nanos);
            let at = match (id, flags & ABSOLUTE != 0) {
                (REALTIME | MONOTONIC, false) => Instant::now().checked_add(timeout),
                (MONOTONIC, true) => clock_zero.checked_add(timeout),
                (REALTIME, true) => {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
                    Instant::now().checked_add(timeout.saturating_sub(now))
                }
                _ => return None,
            };
            at.map_or(Due::Never, Due::At)
        }
        kind if kind <= FD_WRITE => Due::Now,
        _ => return None,
    };
    Some(Subscription { userdata, kind, due })
}

fn slice(bytes: &[u8], offset: u32, len: usize) -> Option<&[u8]> {
    let offset = offset as usize;
    bytes.get(offset..offset.checked_add(len)?)
}

fn slice_mut(bytes: &mut [u8], offset: u32, len: usize) -> Option<&mut [u8]> {
    let offset = offset as usize;
    bytes.get_mut(offset..offset.checked_add(len)?)
}
