//! The cache of compiled code, shared by all tasks: by the digest of a binary,
//! a core module or a component that is ready to be instantiated. Tasks that
//! bring the same code at the same time wait for one compile, and an error of
//! the compiler is cached, too. A compile that no task waits for any more is
//! ended; if it had taken long, it is not started again for a while. Code that
//! was compiled before the last restart is found on the disk.

use super::RuntimeConfig;
use super::code::{CompiledCode, Kind};
use super::compiler::{Bench, CompileLane, Compiler, Ender, NotCompiled};
use super::engine::BySize;
use super::link::{Artefact, Linkers, Pre};
use crate::cache::{Cache, CacheEntry, CacheLimits, Flight, LookUp};
use crate::cancel::{Cancel, Reason};
use crate::cooldown::{PAUSE, Pauses, SHORT};
use crate::digest::Digest;
use crate::disk::DiskCache;
use crate::task::Binary;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;
use wasmtime::Engine;

/// Artefacts in memory, whose number is bounded since what the engine keeps of a
/// small module besides its code is more than its code. The disk may have more.
const MAX_ENTRIES: usize = 1024;

/// Code that is kept for the next task.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KeptCode {
    /// Of the binary.
    pub digest: String,
    /// `module`, `component`, or `refused` for what does not compile.
    pub kind: String,
    /// Of the compiled code.
    pub bytes: u64,
    /// Tasks that found it.
    pub hits: u64,
    /// The time since the last use.
    pub idle: Duration,
}

/// The artefact, or a sentence for the task's result.
pub(super) type Compilation = Result<Arc<Artefact>, Arc<str>>;

/// The cache. See the module's documentation.
pub(super) struct Artefacts {
    maker: Arc<Maker>,
    compiler: Compiler,
}

/// What makes artefacts, on the threads of the compiler.
struct Maker {
    linkers: BySize<Linkers>,
    cache: Cache<Digest, Compilation>,
    /// Each with the sentence for its tasks.
    pauses: Arc<Pauses<Arc<str>>>,
    disk: Option<Arc<DiskCache>>,
    compiled: AtomicU64,
}

/// The making of one artefact, from its claim to its end: between the thread
/// that makes it and the last task that waits for it.
struct ArtefactWork {
    digest: Digest,
    stage: Mutex<WorkStage>,
}

enum WorkStage {
    /// No compiler has taken it.
    Queued(Binary),
    /// One has, and may be looking on the disk.
    Taken,
    /// It is being compiled since then, and this ends it.
    Compiling(Instant, Ender),
    /// It goes on to its end: it is compiled, or nothing can end that.
    Certain,
    /// Nobody waits for it.
    GivenUp,
}

impl Artefacts {
    /// Holds no more compiled code than the configuration says, what was used
    /// least recently goes first; compiles no more modules at the same time.
    pub(super) fn new(
        linkers: BySize<Linkers>,
        config: &RuntimeConfig,
    ) -> anyhow::Result<Artefacts> {
        let limits = CacheLimits {
            bytes: config.module_cache,
            entries: MAX_ENTRIES,
            // The compiler has its own bound.
            flights: usize::MAX,
        };
        let maker = Maker {
            linkers,
            cache: Cache::new(limits),
            pauses: Arc::default(),
            disk: config.disk.clone(),
            compiled: AtomicU64::new(0),
        };
        let compiler = Compiler::start(config.compilers, config.compile_apart.as_ref())?;
        Ok(Artefacts { maker: Arc::new(maker), compiler })
    }

    /// The artefact of `binary`, and whether this task found it compiled or
    /// being compiled. If not, `meanwhile` is called while it is made.
    ///
    /// # Errors
    ///
    /// The reason why the task did not wait any longer. If no other one does,
    /// the compile is ended.
    pub(super) fn get(
        &self,
        binary: &Binary,
        cancel: &Cancel,
        meanwhile: impl FnOnce(),
    ) -> Result<(Compilation, bool), Reason> {
        let digest = binary.digest();
        let flight = match self.maker.cache.look_up(digest, |_| true, cancel)? {
            LookUp::Found(compiled) => return Ok((compiled, true)),
            LookUp::Claimed(flight) => flight,
        };
        if let Some((_, reason)) = self.maker.pauses.reason(&digest, Instant::now()) {
            flight.give(Err(reason.clone()));
            return Ok((Err(reason), true));
        }
        let stage = Mutex::new(WorkStage::Queued(binary.clone()));
        let making = Arc::new(ArtefactWork { digest, stage });
        let waiter = flight.join();
        flight.when_deserted({
            let (pauses, making) = (self.maker.pauses.clone(), making.clone());
            move || making.give_up(&pauses)
        });
        // What it is and whether the disk has it is found out there.
        submit(&self.maker, &self.compiler, CompileLane::Quick, making, flight);
        meanwhile();
        let compiled = waiter.wait(cancel)?;
        Ok((compiled.unwrap_or_else(|| Err("the compiler ended without an answer".into())), false))
    }

    /// The artefact of the binary with this digest, if it is there or is being
    /// made.
    ///
    /// # Errors
    ///
    /// The reason why the task did not wait any longer.
    pub(super) fn find(
        &self,
        digest: &Digest,
        cancel: &Cancel,
    ) -> Result<Option<Compilation>, Reason> {
        Ok(match self.maker.cache.look_up(*digest, |_| true, cancel)? {
            LookUp::Found(compiled) => Some(compiled),
            LookUp::Claimed(_) => None,
        })
    }

    /// How many modules were compiled since the start.
    pub(super) fn compiled(&self) -> u64 {
        self.maker.compiled.load(Ordering::Relaxed)
    }

    /// The code that was used last, at most so many.
    pub(super) fn kept(&self, most: usize) -> Vec<KeptCode> {
        let entries = self.maker.cache.entries(most).into_iter();
        let kept = entries.map(|CacheEntry { key, value, weight, hits, idle }| KeptCode {
            digest: key.to_string(),
            kind: match value.as_ref().map(|artefact| &artefact.pre) {
                Ok(Pre::Module(_)) => "module",
                Ok(Pre::Component(_)) => "component",
                Err(_) => "refused",
            }
            .to_owned(),
            bytes: weight,
            hits,
            idle,
        });
        kept.collect()
    }

    /// Bytes in memory: of code, and of sentences on what does not compile.
    pub(super) fn bytes(&self) -> u64 {
        self.maker.cache.stats().bytes
    }
}

fn submit(
    maker: &Arc<Maker>,
    compiler: &Compiler,
    lane: CompileLane,
    making: Arc<ArtefactWork>,
    flight: Flight<Digest, Compilation>,
) {
    let (maker, again) = (maker.clone(), compiler.downgrade());
    compiler.submit(lane, move |bench| {
        if let Some(flight) = maker.fulfil(&making, flight, bench)
            && let Some(compiler) = again.upgrade()
        {
            submit(&maker, &compiler, CompileLane::Patient, making, flight);
        }
    });
}

impl ArtefactWork {
    /// Goes on to this stage; the one before, unless nobody waits any more.
    fn change(&self, stage: WorkStage) -> Option<WorkStage> {
        let mut now = self.stage();
        match *now {
            WorkStage::GivenUp => None,
            _ => Some(std::mem::replace(&mut *now, stage)),
        }
    }

    /// Ends what nobody waits for any more, if that is possible: else tasks that
    /// time out could pile up compiles.
    fn give_up(&self, pauses: &Pauses<Arc<str>>) -> bool {
        let mut stage = self.stage();
        match &*stage {
            WorkStage::Queued(_) | WorkStage::Taken | WorkStage::GivenUp => {}
            WorkStage::Certain => return false,
            WorkStage::Compiling(since, ender) => {
                let took = since.elapsed();
                if took >= SHORT {
                    let sentence = format!(
                        "compiling this code was ended after {} s, since no task waited for it any \
                         more; it is not begun again for {} s",
                        took.as_secs(),
                        PAUSE.as_secs()
                    );
                    pauses.pause(self.digest, sentence.into(), Instant::now());
                }
                // Under the lock, so that it is not the process's next that it ends.
                ender.end();
            }
        }
        *stage = WorkStage::GivenUp;
        true
    }

    // It is set in one step.
    fn stage(&self) -> MutexGuard<'_, WorkStage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maker {
    /// Makes the artefact; gives the flight back if it is for the other lane.
    fn fulfil(
        &self,
        making: &ArtefactWork,
        flight: Flight<Digest, Compilation>,
        bench: &mut Bench,
    ) -> Option<Flight<Digest, Compilation>> {
        let Some(WorkStage::Queued(binary)) = making.change(WorkStage::Taken) else { return None };
        // A fault of the compiler's must not leave anyone waiting.
        let made = catch_unwind(AssertUnwindSafe(|| self.make(&binary, making, bench)));
        let made = made.unwrap_or_else(|_| {
            let sentence = "the compiler panicked on this code; see the log";
            Err(NotCompiled::Refused(sentence.into()))
        });
        let (compiled, new) = match made {
            Ok((artefact, new)) => (Ok(Arc::new(artefact)), new),
            Err(NotCompiled::Refused(reason)) => (Err(Arc::from(reason)), false),
            Err(NotCompiled::Failed(reason)) => {
                let again = format!("{reason}; it is not tried again for {} s", PAUSE.as_secs());
                let again = Arc::<str>::from(again);
                self.pauses.pause(making.digest, again.clone(), Instant::now());
                flight.give(Err(again));
                return None;
            }
            Err(NotCompiled::Patient) => {
                return making.change(WorkStage::Queued(binary)).map(|_| flight);
            }
            // Nobody waits for it.
            Err(NotCompiled::Ended) => return None,
        };
        let weight = weight(&compiled);
        flight.land(compiled.clone(), weight);
        // Nobody waits for this.
        if let (true, Ok(artefact), Some(disk)) = (new, compiled, &self.disk) {
            disk.keep(making.digest, move || {
                artefact.code.serialize().map_err(|error| format!("{error:#}"))
            });
        }
        None
    }

    /// The artefact, and whether it had to be compiled.
    fn make(
        &self,
        binary: &Binary,
        making: &ArtefactWork,
        bench: &mut Bench,
    ) -> Result<(Artefact, bool), NotCompiled> {
        let kind = Kind::of(binary).map_err(NotCompiled::Refused)?;
        let linkers = self.linkers.of(binary);
        let engine = linkers.engine();
        let link = |code: &CompiledCode| linkers.link(code).map_err(NotCompiled::Refused);
        if let Some(code) = self.on_disk(engine, kind, &making.digest) {
            return Ok((link(&code)?, false));
        }
        let code = bench.compile(engine, kind, binary, |ender| {
            self.compiled.fetch_add(1, Ordering::Relaxed);
            let stage = match ender {
                Some(ender) => WorkStage::Compiling(Instant::now(), ender),
                None => WorkStage::Certain,
            };
            making.change(stage).is_some()
        })?;
        // Its process goes on to something else.
        making.change(WorkStage::Certain);
        Ok((link(&code)?, true))
    }

    /// What an earlier process compiled, if this engine can run it.
    fn on_disk(&self, engine: &Engine, kind: Kind, digest: &Digest) -> Option<CompiledCode> {
        let disk = self.disk.as_ref()?;
        let bytes = disk.get(digest)?;
        // SAFETY: they are what `CompiledCode::serialize` gave this program, whole by
        // their digest, in a folder for code alone that nobody else can write
        // to; that they are of this kind, this version, these settings and this
        // sort of processor is looked at by the engine.
        #[allow(unsafe_code, reason = "compiled code is run as it is found")]
        let code = unsafe { CompiledCode::deserialize(engine, kind, &bytes) };
        code.inspect_err(|error| {
            debug!("compiled code on the disk can't be used: {error:#}");
            disk.remove(digest);
        })
        .ok()
    }
}

/// Bytes of an entry.
fn weight(compiled: &Compilation) -> u64 {
    // What the entry itself costs.
    const ENTRY: usize = 1024;
    let bytes = match compiled {
        Ok(artefact) => artefact.code.size(),
        Err(message) => message.len(),
    };
    bytes.saturating_add(ENTRY) as u64
}
