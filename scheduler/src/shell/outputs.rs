// SPDX-License-Identifier: Apache-2.0
//! The outputs of one stage as they come in, summed up per executor.
//!
//! What is kept grows with tasks, and with executors times buckets, never with tasks times buckets: a consumer wants
//! to know the rows of a bucket per executor, planning wants them in all.

use std::collections::BTreeMap;

use ballista_exchange::wire::task_key_to_proto;
use ballista_proto as proto;
use ballista_scheduler_core::StageFinished;
use prost::bytes::Bytes;

use super::executors::{Executors, Life};
use crate::planning::job::StageResult;

/// What the successful tasks of a stage reported so far.
#[derive(Clone, Default)]
pub(crate) struct StageOutputs {
    holders: BTreeMap<Life, Holder>,
    rows: u64,
    bytes: u64,
    inline: Option<Bytes>,
    samples: Vec<(u64, Bytes)>,
}

/// What one executor holds of a stage.
#[derive(Clone, Default)]
struct Holder {
    tasks: usize,
    rows: u64,
    bytes: u64,
    bucket_rows: Vec<u64>,
    bucket_bytes: Vec<u64>,
}

impl StageOutputs {
    /// Takes in what a task reported; an error says what is wrong with it.
    pub(crate) fn add(&mut self, life: &Life, output: proto::TaskOutput) -> Result<(), String> {
        let buckets = output.bucket_rows.len();
        if output.bucket_bytes.len() != buckets {
            return Err(format!("it reports rows of {buckets} buckets and bytes of {}", output.bucket_bytes.len()));
        }
        if let Some(other) = self.holders.values().next().filter(|other| other.bucket_rows.len() != buckets) {
            return Err(format!("it reports {buckets} buckets, other tasks {}", other.bucket_rows.len()));
        }
        let holder = self.holders.entry(life.clone()).or_default();
        holder.tasks += 1;
        holder.rows = holder.rows.saturating_add(output.rows);
        holder.bytes = holder.bytes.saturating_add(output.bytes);
        add(&mut holder.bucket_rows, &output.bucket_rows);
        add(&mut holder.bucket_bytes, &output.bucket_bytes);
        self.rows = self.rows.saturating_add(output.rows);
        self.bytes = self.bytes.saturating_add(output.bytes);
        if output.is_inline {
            self.inline = Some(output.inline);
        }
        if !output.sample.is_empty() {
            self.samples.push((output.rows, output.sample));
        }
        Ok(())
    }

    /// What an executor held is gone.
    pub(crate) fn lose(&mut self, life: &Life) {
        if let Some(lost) = self.holders.remove(life) {
            self.rows = self.rows.saturating_sub(lost.rows);
            self.bytes = self.bytes.saturating_sub(lost.bytes);
        }
    }

    /// Bytes by executor, for placing a task where its input is.
    pub(crate) fn bytes_by_holder(&self) -> impl Iterator<Item = (&Life, u64)> {
        self.holders.iter().map(|(life, holder)| (life, holder.bucket_bytes.iter().sum()))
    }

    /// The stage is finished: where its outputs are, for the tasks that read them, in the order of tasks.
    ///
    /// An error means that shell and core disagree about which tasks succeeded, which must not happen.
    pub(crate) fn locate(&self, finished: &StageFinished, executors: &Executors) -> Result<proto::StageInput, String> {
        let mut tasks: BTreeMap<Life, Vec<proto::TaskKey>> = BTreeMap::new();
        for output in &finished.outputs {
            let life = (output.executor.clone(), output.incarnation);
            tasks.entry(life).or_default().push(task_key_to_proto(&output.task));
        }
        let counts = tasks.iter().map(|(life, outputs)| (life, outputs.len()));
        if !counts.eq(self.holders.iter().map(|(life, holder)| (life, holder.tasks))) {
            return Err("the outputs that were reported are not those that count".to_owned());
        }
        let mut sources = Vec::with_capacity(tasks.len());
        for ((life, outputs), holder) in tasks.into_iter().zip(self.holders.values()) {
            let executor = executors.get(&life).ok_or_else(|| format!("executor {} is gone", life.0))?;
            let bucket_rows = holder.bucket_rows.clone();
            sources.push(proto::InputSource { address: Some(executor.address.to_proto()), outputs, bucket_rows });
        }
        Ok(proto::StageInput { stage: finished.stage.0, sources })
    }

    /// Bytes of every bucket.
    pub(crate) fn bucket_bytes(&self) -> Vec<u64> {
        let mut sums = Vec::new();
        self.holders.values().for_each(|holder| add(&mut sums, &holder.bucket_bytes));
        sums
    }

    /// The stage is finished: what planning wants to know. Takes the samples and the inline rows.
    pub(crate) fn result(&mut self) -> StageResult {
        let mut result = StageResult {
            bucket_rows: Vec::new(),
            bucket_bytes: Vec::new(),
            rows: self.rows,
            bytes: self.bytes,
            inline: self.inline.take(),
            samples: std::mem::take(&mut self.samples),
        };
        for holder in self.holders.values() {
            add(&mut result.bucket_rows, &holder.bucket_rows);
            add(&mut result.bucket_bytes, &holder.bucket_bytes);
        }
        result
    }
}

/// Adds element by element.
fn add(sums: &mut Vec<u64>, values: &[u64]) {
    if sums.len() < values.len() {
        sums.resize(values.len(), 0);
    }
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = sum.saturating_add(*value);
    }
}
