// SPDX-License-Identifier: Apache-2.0
//! A launch, checked: what a task is to run, and on what.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballista_core::{ClassifiedError, ErrorClass, StageId, TaskKey};
use ballista_exchange::wire::task_key_from_proto;
use ballista_exchange::{ExchangeError, StageInputs};
use ballista_proto as proto;

/// The typed form of [`proto::Launch`].
#[derive(Debug)]
pub(crate) struct TaskSpec {
    pub(crate) key: TaskKey,
    /// Partitions of the stage, ascending, at least one.
    pub(crate) partitions: Vec<usize>,
    pub(crate) session_id: String,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) inputs: BTreeMap<StageId, Arc<StageInputs>>,
    /// Report what the operators did.
    pub(crate) metrics: bool,
    /// Object stores of the job, with their options.
    pub(crate) stores: Vec<proto::ObjectStore>,
}

/// The identity of the task to launch.
pub(crate) fn key_of(launch: &proto::Launch) -> Result<TaskKey, ExchangeError> {
    let key = launch.task.as_ref().ok_or_else(|| ExchangeError::Protocol("a launch without a task".into()))?;
    task_key_from_proto(key)
}

impl TryFrom<proto::Launch> for TaskSpec {
    type Error = ClassifiedError;

    fn try_from(launch: proto::Launch) -> Result<Self, ClassifiedError> {
        let key = key_of(&launch).map_err(|error| ClassifiedError::from(&error))?;
        if launch.partitions.is_empty() || !launch.partitions.is_sorted_by(|a, b| a < b) {
            let message = format!("partitions of task {key} are not ascending: {:?}", launch.partitions);
            return Err(ClassifiedError::new(ErrorClass::Deterministic, message));
        }
        let inputs = launch.inputs.iter().map(|input| {
            let inputs = StageInputs::from_proto(input).map_err(|error| ClassifiedError::from(&error))?;
            Ok((inputs.stage, Arc::new(inputs)))
        });
        let inputs = inputs.collect::<Result<_, ClassifiedError>>()?;
        let settings = launch.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
        Ok(Self {
            key,
            partitions: launch.partitions.into_iter().map(|partition| partition as usize).collect(),
            session_id: launch.session_id,
            settings,
            inputs,
            metrics: launch.metrics,
            stores: launch.stores,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(partitions: Vec<u32>) -> proto::Launch {
        let task = proto::TaskKey { job: "job".into(), ..Default::default() };
        proto::Launch { task: Some(task), partitions, ..Default::default() }
    }

    #[test]
    fn partitions_must_ascend() {
        assert_eq!(TaskSpec::try_from(launch(vec![1, 4])).unwrap().partitions, [1, 4]);
        for bad in [vec![], vec![1, 1], vec![2, 1]] {
            assert_eq!(TaskSpec::try_from(launch(bad)).unwrap_err().class, ErrorClass::Deterministic);
        }
    }

    #[test]
    fn a_key_that_could_become_a_path_is_refused() {
        let task = proto::TaskKey { job: "../x".into(), ..Default::default() };
        assert!(key_of(&proto::Launch { task: Some(task), ..Default::default() }).is_err());
        assert!(key_of(&proto::Launch::default()).is_err());
    }
}
