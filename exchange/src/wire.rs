// SPDX-License-Identifier: Apache-2.0
//! Typed mirrors of the exchange's wire messages. Ids and sizes are checked here, where they enter the process, and
//! nowhere else.

use std::fmt;
use std::ops::Range;

use ballista_core::{
    ClassifiedError, ErrorClass, ExecutorId, Incarnation, JobId, StageId, TaskId, TaskKey, UnreadInput,
};
use ballista_proto as proto;

use crate::error::{ExchangeError, Result};

/// More outputs than this in one message are refused before anything is allocated for them.
const MAX_OUTPUTS: usize = 1 << 20;

/// Checks and converts a task key.
pub fn task_key_from_proto(key: &proto::TaskKey) -> Result<TaskKey> {
    Ok(TaskKey {
        job: JobId::new(&key.job)?,
        stage: StageId(key.stage),
        stage_attempt: key.stage_attempt,
        task: TaskId(key.task),
        attempt: key.attempt,
    })
}

/// The wire form of a task key.
pub fn task_key_to_proto(key: &TaskKey) -> proto::TaskKey {
    proto::TaskKey {
        job: key.job.to_string(),
        stage: key.stage.0,
        stage_attempt: key.stage_attempt,
        task: key.task.0,
        attempt: key.attempt,
    }
}

/// The wire form of an error.
pub fn failure_to_proto(error: &ClassifiedError) -> proto::Failure {
    let input = error.unread.as_ref().map(|input| proto::UnreadInput {
        job: input.job.to_string(),
        stage: input.stage.0,
        executor: input.executor.to_string(),
        incarnation: input.incarnation.0,
        gone: input.gone,
    });
    proto::Failure { class: error.class.code(), message: error.message.clone(), input }
}

/// An error from the wire. An input that makes no sense is left out: it only helps.
pub fn failure_from_proto(failure: proto::Failure) -> ClassifiedError {
    let input = failure.input.and_then(|input| {
        Some(UnreadInput {
            job: JobId::new(input.job).ok()?,
            stage: StageId(input.stage),
            executor: ExecutorId::new(input.executor).ok()?,
            incarnation: Incarnation(input.incarnation),
            gone: input.gone,
        })
    });
    ClassifiedError::new(ErrorClass::from_code(failure.class), failure.message).with_unread(input)
}

/// One life of one executor, and where its data service is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExecutorAddress {
    /// The executor.
    pub executor: ExecutorId,
    /// Which of its lives.
    pub incarnation: Incarnation,
    /// Advertised host name or IP address.
    pub host: String,
    /// Advertised port of the data service.
    pub port: u16,
}

impl ExecutorAddress {
    /// Checks and converts the wire form.
    pub fn from_proto(address: &proto::ExecutorAddress) -> Result<Self> {
        let host_is_valid = !address.host.is_empty()
            && address.host.len() <= 253
            && address.host.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:[]%".contains(&b));
        if !host_is_valid {
            return Err(ExchangeError::Protocol("host of an executor is not a host name".into()));
        }
        let port = u16::try_from(address.port)
            .map_err(|_| ExchangeError::Protocol(format!("{} is not a port", address.port)))?;
        Ok(Self {
            executor: ExecutorId::new(&address.executor)?,
            incarnation: Incarnation(address.incarnation),
            host: address.host.clone(),
            port,
        })
    }

    /// The wire form.
    pub fn to_proto(&self) -> proto::ExecutorAddress {
        proto::ExecutorAddress {
            executor: self.executor.to_string(),
            incarnation: self.incarnation.0,
            host: self.host.clone(),
            port: u32::from(self.port),
        }
    }

    /// `host:port`, with an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ExecutorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.executor, self.authority())
    }
}

/// The outputs that one executor holds of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSource {
    /// Who holds them.
    pub address: ExecutorAddress,
    /// The outputs, in task order.
    pub outputs: Vec<TaskKey>,
    /// Rows of these outputs together, per bucket; empty if unknown, and then nothing is checked against it.
    pub bucket_rows: Vec<u64>,
}

impl InputSource {
    /// Checks and converts the wire form.
    pub fn from_proto(source: &proto::InputSource) -> Result<Self> {
        if source.outputs.len() > MAX_OUTPUTS {
            return Err(ExchangeError::Protocol(format!("{} outputs in one input", source.outputs.len())));
        }
        let address =
            source.address.as_ref().ok_or_else(|| ExchangeError::Protocol("input without an address".into()))?;
        Ok(Self {
            address: ExecutorAddress::from_proto(address)?,
            outputs: source.outputs.iter().map(task_key_from_proto).collect::<Result<_>>()?,
            bucket_rows: source.bucket_rows.clone(),
        })
    }

    /// The wire form.
    pub fn to_proto(&self) -> proto::InputSource {
        proto::InputSource {
            address: Some(self.address.to_proto()),
            outputs: self.outputs.iter().map(task_key_to_proto).collect(),
            bucket_rows: self.bucket_rows.clone(),
        }
    }

    /// Rows to expect of these buckets, if known. Buckets past the end hold no rows.
    pub fn expected_rows(&self, buckets: &Range<u32>) -> Option<u64> {
        if self.bucket_rows.is_empty() {
            return None;
        }
        let end = (buckets.end as usize).min(self.bucket_rows.len());
        let start = (buckets.start as usize).min(end);
        Some(self.bucket_rows[start..end].iter().sum())
    }
}

/// The outputs of one finished stage, by the executor that holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageInputs {
    /// What the consumer calls the stage. Its outputs have another job's and stage's name if that job has kept them.
    pub stage: StageId,
    /// One entry per executor that holds outputs.
    pub sources: Vec<InputSource>,
}

impl StageInputs {
    /// Checks and converts the wire form.
    pub fn from_proto(input: &proto::StageInput) -> Result<Self> {
        let stage = StageId(input.stage);
        let sources = input.sources.iter().map(InputSource::from_proto).collect::<Result<Vec<_>>>()?;
        let inputs = Self { stage, sources };
        let mut outputs = inputs.sources.iter().flat_map(|source| &source.outputs);
        let first = outputs.next();
        let foreign = |key: &TaskKey| first.is_some_and(|first| first.job != key.job || first.stage != key.stage);
        if outputs.any(foreign) {
            return Err(ExchangeError::Protocol(format!("outputs of more than one stage in input {stage}")));
        }
        Ok(inputs)
    }

    /// The wire form.
    pub fn to_proto(&self) -> proto::StageInput {
        proto::StageInput { stage: self.stage.0, sources: self.sources.iter().map(InputSource::to_proto).collect() }
    }

    /// The job that the outputs belong to; `None` for a stage without outputs.
    pub fn job(&self) -> Option<&JobId> {
        self.sources.iter().flat_map(|source| &source.outputs).map(|key| &key.job).next()
    }
}

/// What a `DoGet` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The executor's life that must answer.
    pub incarnation: Incarnation,
    /// Outputs to read, at least one, all of one stage; for a result exactly one.
    pub outputs: Vec<TaskKey>,
    /// Buckets to read of each output.
    pub buckets: Range<u32>,
    /// First output to read.
    pub from_output: u32,
    /// First block to read of that output, counted within the range of buckets.
    pub from_block: u64,
    /// Stop after about this many bytes; 0 = no limit.
    pub max_bytes: u64,
    /// Producer and consumer share a host.
    pub same_host: bool,
    /// Read a running final task's result instead of a shuffle output.
    pub result: bool,
}

impl Ticket {
    /// Asks for a running final task's result.
    pub fn result(incarnation: Incarnation, task: TaskKey) -> Self {
        Self {
            incarnation,
            outputs: vec![task],
            buckets: 0..1,
            from_output: 0,
            from_block: 0,
            max_bytes: 0,
            same_host: false,
            result: true,
        }
    }

    /// Checks and converts the wire form.
    pub fn from_proto(ticket: &proto::Ticket) -> Result<Self> {
        let refuse = |what: &str| Err(ExchangeError::Ticket(what.to_owned()));
        if ticket.outputs.is_empty() || ticket.outputs.len() > MAX_OUTPUTS {
            return refuse("number of outputs out of range");
        }
        if ticket.bucket_start > ticket.bucket_end {
            return refuse("bucket range ends before it starts");
        }
        let outputs = ticket.outputs.iter().map(task_key_from_proto).collect::<Result<Vec<_>>>()?;
        if outputs.iter().any(|key| key.job != outputs[0].job || key.stage != outputs[0].stage) {
            return refuse("outputs of more than one stage");
        }
        if ticket.result && outputs.len() != 1 {
            return refuse("a result is the output of one task");
        }
        Ok(Self {
            incarnation: Incarnation(ticket.incarnation),
            outputs,
            buckets: ticket.bucket_start..ticket.bucket_end,
            from_output: ticket.from_output,
            from_block: ticket.from_block,
            max_bytes: ticket.max_bytes,
            same_host: ticket.same_host,
            result: ticket.result,
        })
    }

    /// The wire form, to be signed.
    pub fn to_proto(&self) -> proto::Ticket {
        proto::Ticket {
            incarnation: self.incarnation.0,
            outputs: self.outputs.iter().map(task_key_to_proto).collect(),
            bucket_start: self.buckets.start,
            bucket_end: self.buckets.end,
            from_output: self.from_output,
            from_block: self.from_block,
            max_bytes: self.max_bytes,
            same_host: self.same_host,
            result: self.result,
        }
    }
}
