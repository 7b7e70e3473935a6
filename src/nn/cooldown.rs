//! Models whose compile was ended, since no task waited for it any more: none
//! begins it again for a while, else a model that compiles for minutes would
//! keep a processor busy for whoever sends it again and again. What a backend
//! can't interrupt ends with its process, so others are told: a process that
//! comes after it has the same pauses.

use std::fmt;
use std::time::{Duration, Instant};

use wasmtime_wasi_nn::wit::ExecutionTarget;

use super::backends::Encoding;
use super::refusal::Refusal;
use crate::cooldown::{PAUSE, Pauses, SHORT};
use crate::digest::Digest;

/// A model that is not compiled again for a while: plain data, for another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PausedModel {
    /// Of its bytes and what they are.
    model: Digest,
    /// How long it was compiled before that was ended.
    took: Duration,
    /// For how long it is not compiled from now on; zero if it may be.
    left: Duration,
}

type Tell = dyn Fn(PausedModel) + Send + Sync;

/// See the module's documentation.
pub struct ModelPauses {
    /// Each with the time that its compile had.
    pauses: Pauses<Duration>,
    /// A compile that was ended before this may begin again at once.
    short: Duration,
    tell: Option<Box<Tell>>,
}

impl Default for ModelPauses {
    fn default() -> ModelPauses {
        ModelPauses { pauses: Pauses::default(), short: SHORT, tell: None }
    }
}

impl fmt::Debug for ModelPauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelPauses").finish_non_exhaustive()
    }
}

impl ModelPauses {
    /// Those that call `tell`, which must not wait, when a pause begins or is over
    /// before its time.
    pub fn told(tell: impl Fn(PausedModel) + Send + Sync + 'static) -> ModelPauses {
        ModelPauses { tell: Some(Box::new(tell)), ..ModelPauses::default() }
    }

    /// The same without a time that a compile may have had.
    #[cfg(test)]
    pub(super) fn of_any(self) -> ModelPauses {
        ModelPauses { short: Duration::ZERO, ..self }
    }

    /// Takes over what another process was told. That one may be hostile: no pause
    /// is longer than one of ours.
    pub fn adopt(&self, PausedModel { model, took, left }: PausedModel) {
        self.pauses.pause_for(model, left.min(PAUSE), took, Instant::now());
    }

    /// All that there are.
    pub fn all(&self) -> Vec<PausedModel> {
        let all = self.pauses.all(Instant::now()).into_iter();
        all.map(|(model, left, took)| PausedModel { model, took, left }).collect()
    }

    /// Why this model is not compiled now, if it is not.
    pub(super) fn refusal(&self, model: &Digest) -> Option<Refusal> {
        let (left, took) = self.pauses.reason(model, Instant::now())?;
        let left = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(Refusal::runtime(format!(
            "compiling this model was ended after {} s, since no task waited for it any more; it \
             is not begun again for {left} s",
            took.as_secs()
        )))
    }

    /// No task waits any more for this model, which is compiled since then.
    pub(super) fn deserted(&self, model: Digest, since: Instant) {
        let took = since.elapsed();
        if took >= self.short {
            self.change(PausedModel { model, took, left: PAUSE });
        }
    }

    /// It has been compiled after all.
    pub(super) fn compiled(&self, model: Digest) {
        if let Some((_, took)) = self.pauses.reason(&model, Instant::now()) {
            self.change(PausedModel { model, took, left: Duration::ZERO });
        }
    }

    fn change(&self, paused: PausedModel) {
        self.adopt(paused);
        if let Some(tell) = &self.tell {
            tell(paused);
        }
    }
}

/// What a model is known by in every process: other bytes, or the same ones for
/// another encoding or device, are another model.
pub(super) fn identity(encoding: &Encoding, target: ExecutionTarget, parts: &[&[u8]]) -> Digest {
    let target = [target as u8];
    let about = [encoding.name.as_bytes(), &target];
    Digest::of_list(about.into_iter().chain(parts.iter().copied()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_pause_is_told_and_taken_over_until_its_model_is_compiled() {
        let told = Arc::<Mutex<Vec<PausedModel>>>::default();
        let tell = {
            let told = told.clone();
            move |paused| told.lock().expect("no panic").push(paused)
        };
        let (pauses, next) = (ModelPauses::told(tell).of_any(), ModelPauses::default());
        let (model, other) = (Digest::of(b"a model"), Digest::of(b"another one"));
        pauses.compiled(model);
        assert!(told.lock().expect("no panic").is_empty(), "nothing has changed");
        pauses.deserted(model, Instant::now());
        let text = pauses.refusal(&model).expect("a pause").text;
        assert!(text.contains("it is not begun again for "), "{text}");
        assert!(pauses.refusal(&other).is_none());
        for paused in pauses.all() {
            next.adopt(paused);
        }
        assert!(next.refusal(&model).is_some() && next.refusal(&other).is_none());
        pauses.compiled(model);
        assert!(pauses.refusal(&model).is_none());
        for paused in told.lock().expect("no panic").iter() {
            next.adopt(*paused);
        }
        assert!(next.refusal(&model).is_none());
    }

    #[test]
    fn what_had_little_time_may_begin_again_and_nobody_pauses_for_long() {
        let (pauses, model) = (ModelPauses::default(), Digest::of(b"a model"));
        pauses.deserted(model, Instant::now() + Duration::from_secs(3600));
        assert!(pauses.refusal(&model).is_none());
        let took = Duration::from_secs(3);
        pauses.adopt(PausedModel { model, took, left: Duration::MAX });
        assert!(pauses.all()[0].left <= PAUSE, "{:?}", pauses.all());
        let text = pauses.refusal(&model).expect("a pause").text;
        assert!(text.starts_with("compiling this model was ended after 3 s"), "{text}");
    }
}
