//! What is deployed and what is being prepared, within its bounds.

use super::DeployBounds;
use crate::journal::{Deployed, Fingerprint, Run};
use crate::queue::Load;
use crate::task::{Rejection, TaskId, TaskSpec, Weight};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A task that takes invocations.
#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) run: Run,
    pub(super) fingerprint: Fingerprint,
    weight: Weight,
    spec: Spec,
    /// When it was used last, by a count of all uses.
    used: u64,
    /// This worker's runtime has prepared or invoked it, and it was not the end of
    /// a process.
    warm: bool,
}

/// What is granted to a task.
#[derive(Debug)]
enum Spec {
    /// In the journal.
    Stored,
    /// It is being read back.
    Loading,
    /// In memory.
    Loaded(Arc<TaskSpec>),
}

/// How a deployed task is prepared again.
#[derive(Debug)]
pub(super) enum Again {
    Prepare(Arc<TaskSpec>),
    /// It has to be read back first: of this run, if that is not under way.
    Load(Option<Run>),
    /// Not at all.
    No,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DeploymentStore {
    bounds: DeployBounds,
    deployed: HashMap<TaskId, Deployment>,
    /// With what was granted, if that can't be read back.
    preparing: HashMap<TaskId, (Weight, Option<TaskSpec>)>,
    /// What all of them take up, and those of them in memory.
    load: Load,
    in_memory: Load,
    uses: u64,
}

impl DeploymentStore {
    pub(super) fn new(bounds: DeployBounds) -> DeploymentStore {
        DeploymentStore {
            bounds,
            deployed: HashMap::new(),
            preparing: HashMap::new(),
            load: Load::default(),
            in_memory: Load::default(),
            uses: 0,
        }
    }

    pub(super) fn get(&self, id: &TaskId) -> Option<&Deployment> {
        self.deployed.get(id)
    }

    pub(super) fn listed(&self, most: usize) -> Vec<(TaskId, bool)> {
        let listed = self.deployed.iter().take(most);
        let in_memory = |held: &Deployment| matches!(held.spec, Spec::Loaded(_));
        listed.map(|(id, held)| (id.clone(), in_memory(held))).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.deployed.len()
    }

    pub(super) fn reserve(
        &mut self,
        id: &TaskId,
        weight: Weight,
        spec: Option<TaskSpec>,
    ) -> Result<(), Rejection> {
        let others = self.preparing.keys().filter(|id| !self.deployed.contains_key(*id));
        let deployed = self.deployed.len() + others.count();
        let limit = self.bounds.deployments;
        if deployed >= limit && !self.deployed.contains_key(id) {
            return Err(Rejection::Deployments { deployed, limit });
        }
        let limit = self.bounds.bytes;
        if self.load.with(weight) > limit {
            let bytes = self.load.bytes();
            return Err(Rejection::DeploymentBytes { deployed, bytes, limit });
        }
        self.prepare(id, weight, spec);
        Ok(())
    }

    fn prepare(&mut self, id: &TaskId, weight: Weight, spec: Option<TaskSpec>) {
        self.unreserve(id);
        self.load.add(weight);
        self.preparing.insert(id.clone(), (weight, spec));
    }

    pub(super) fn unreserve(&mut self, id: &TaskId) {
        if let Some((weight, _)) = self.preparing.remove(id) {
            self.load.remove(weight);
        }
    }

    /// Takes over what the last process left, the bounds apart. Gives the runs
    /// of which nothing is needed.
    pub(super) fn recovered(
        &mut self,
        deployed: Vec<Deployed>,
        preparing: Vec<(TaskId, Weight)>,
    ) -> Vec<Run> {
        let mut replaced = Vec::new();
        for Deployed { run, arrival, weight } in deployed {
            self.prepare(&arrival.id, weight, None);
            replaced.extend(self.deploy(run, &arrival.id, arrival.fingerprint));
            self.cool(&arrival.id);
        }
        for (id, weight) in preparing {
            self.prepare(&id, weight, None);
        }
        replaced
    }

    /// What was being prepared is deployed. Gives the run that it replaces.
    pub(super) fn deploy(
        &mut self,
        run: Run,
        id: &TaskId,
        fingerprint: Fingerprint,
    ) -> Option<Run> {
        let (weight, spec) = self.preparing.remove(id)?;
        let before = self.remove(id);
        self.uses += 1;
        let (used, warm) = (self.uses, true);
        let deployment = Deployment { run, fingerprint, weight, spec: Spec::Stored, used, warm };
        self.deployed.insert(id.clone(), deployment);
        if let Some(spec) = spec {
            self.loaded(id, spec);
        }
        before
    }

    /// Gives the run that was deployed.
    pub(super) fn remove(&mut self, id: &TaskId) -> Option<Run> {
        let deployment = self.deployed.remove(id)?;
        self.load.remove(deployment.weight);
        if matches!(deployment.spec, Spec::Loaded(_)) {
            self.in_memory.remove(deployment.weight);
        }
        Some(deployment.run)
    }

    /// What is granted to a deployed task, if it is in memory, and its run.
    pub(super) fn spec(&mut self, id: &TaskId) -> Option<(Run, Arc<TaskSpec>)> {
        let deployment = self.deployed.get_mut(id)?;
        let Spec::Loaded(spec) = &deployment.spec else { return None };
        self.uses += 1;
        (deployment.used, deployment.warm) = (self.uses, true);
        Some((deployment.run, spec.clone()))
    }

    /// Those that the runtime has prepared or invoked, the one used last first.
    pub(super) fn warm(&self, most: usize) -> VecDeque<TaskId> {
        let warm = self.deployed.iter().filter(|(_, deployment)| deployment.warm);
        let mut warm: Vec<_> = warm.map(|(id, deployment)| (deployment.used, id)).collect();
        warm.sort_unstable_by(|one, other| other.cmp(one));
        warm.into_iter().take(most).map(|(_, id)| id.clone()).collect()
    }

    /// It is prepared again only once it has been invoked.
    pub(super) fn cool(&mut self, id: &TaskId) {
        if let Some(deployment) = self.deployed.get_mut(id) {
            deployment.warm = false;
        }
    }

    /// What is to be done to prepare a deployed task again, if it is in memory or may
    /// come there without another one's leaving it.
    pub(super) fn again(&mut self, id: &TaskId) -> Again {
        let Some(deployment) = self.deployed.get_mut(id) else { return Again::No };
        match &deployment.spec {
            Spec::Loaded(spec) => Again::Prepare(spec.clone()),
            Spec::Loading => Again::Load(None),
            Spec::Stored => {
                let memory = self.bounds.memory;
                if memory.is_some_and(|memory| self.in_memory.with(deployment.weight) > memory) {
                    return Again::No;
                }
                deployment.spec = Spec::Loading;
                Again::Load(Some(deployment.run))
            }
        }
    }

    /// It is to be read back; gives its run, unless that is under way.
    pub(super) fn load(&mut self, id: &TaskId) -> Option<Run> {
        let deployment = self.deployed.get_mut(id)?;
        let stored = matches!(deployment.spec, Spec::Stored);
        deployment.spec = Spec::Loading;
        stored.then_some(deployment.run)
    }

    /// Whether this run is being read back.
    pub(super) fn loads(&self, id: &TaskId, run: Run) -> bool {
        let deployment = self.deployed.get(id).filter(|deployment| deployment.run == run);
        deployment.is_some_and(|deployment| matches!(deployment.spec, Spec::Loading))
    }

    pub(super) fn loaded(&mut self, id: &TaskId, spec: TaskSpec) {
        let Some(deployment) = self.deployed.get_mut(id) else { return };
        self.uses += 1;
        deployment.used = self.uses;
        deployment.spec = Spec::Loaded(Arc::new(spec));
        self.in_memory.add(deployment.weight);
        self.make_room(id);
    }

    pub(super) fn not_loaded(&mut self, id: &TaskId) {
        if let Some(deployment) = self.deployed.get_mut(id) {
            deployment.spec = Spec::Stored;
        }
    }

    /// Lets go of those that were used least recently, but for this one.
    fn make_room(&mut self, keep: &TaskId) {
        let Some(memory) = self.bounds.memory else { return };
        if self.in_memory.bytes() <= memory {
            return;
        }
        let loaded = self
            .deployed
            .iter()
            .filter(|(id, deployment)| matches!(deployment.spec, Spec::Loaded(_)) && *id != keep);
        let mut oldest: Vec<_> =
            loaded.map(|(id, deployment)| (deployment.used, id.clone())).collect();
        oldest.sort_unstable();
        for (_, id) in oldest {
            if self.in_memory.bytes() <= memory {
                return;
            }
            if let Some(deployment) = self.deployed.get_mut(&id) {
                deployment.spec = Spec::Stored;
                self.in_memory.remove(deployment.weight);
            }
        }
    }
}
