// SPDX-License-Identifier: Apache-2.0
//! Running a native plan inside a Spark task.
//!
//! Spark's iterators belong to the task's thread (task context, memory manager, input files), DataFusion polls leaves
//! on whatever thread it likes. So a leaf does not pull: it asks, and the task's thread, which sits in `executePlan`
//! anyway, serves it:
//!
//! ```text
//!   task thread, in executePlan                    any thread
//!   ┌ wait for ───────────────┐                    ScanExec
//!   │  a pull request       ◀─┼── request, reply ──  │ waits for the reply, like for any future
//!   │  or an output batch     │                      ▼
//!   └─┬────────────┬──────────┘                    filter, project …
//!     │ pull       │ batch
//!     ▼            ▼
//!   get_next     return to Spark
//!   (outside of the runtime: Java may call
//!    executePlan of another plan from here)
//! ```
//!
//! Invariants: a source is touched by the task's thread only, and only within [`Execution::next_batch`]; it is dropped after
//! everything that could ask it. Being killed is noticed before each batch, in and out, and while waiting, by the task's
//! thread, which asks every [`KILL_CHECK`].

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ffi_stream::ArrowArrayStreamReader;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::error::{ArrowContext, Result, SparkError};
use crate::ffi::conform;

/// How often a task that waits for its plan asks whether it was killed.
const KILL_CHECK: Duration = Duration::from_millis(100);

/// How long the end of a plan waits for what the plan spawned.
const QUIET_TIMEOUT: Duration = Duration::from_secs(30);

/// Where an input's batches come from.
pub trait BatchSource: Send {
    /// The next batch; none at the end, and from then on.
    fn next(&mut self) -> Result<Option<RecordBatch>>;
}

impl BatchSource for ArrowArrayStreamReader {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        Iterator::next(self).transpose().context("pull a batch from the JVM")
    }
}

/// What a plan needs to know of its Spark task. Called on the task's thread only.
pub trait TaskHooks: Send {
    /// Whether the task was killed.
    fn is_killed(&self) -> Result<bool>;

    /// The Java exception that a source failed with, if that is why. C streams carry no more than its text.
    fn take_failure(&self) -> Option<SparkError>;
}

/// A request of a leaf for the next batch of input `input`.
#[derive(Debug)]
pub struct PullRequest {
    input: usize,
    reply: oneshot::Sender<PlanResult<Option<RecordBatch>>>,
}

/// The leaf's end of the line to the task's thread.
pub type PullSender = mpsc::UnboundedSender<PullRequest>;

/// The task thread's end.
pub type PullReceiver = mpsc::UnboundedReceiver<PullRequest>;

/// Leaf of a plan: one input of the JVM, cast to the declared schema where it drifted.
pub struct ScanExec {
    input: usize,
    requests: PullSender,
    properties: Arc<PlanProperties>,
}

impl ScanExec {
    /// The leaf for input `input`, declared to be of `schema`.
    pub fn new(input: usize, schema: SchemaRef, requests: PullSender) -> Self {
        let equivalences = EquivalenceProperties::new(schema);
        let partitioning = Partitioning::UnknownPartitioning(1);
        let properties =
            PlanProperties::new(equivalences, partitioning, EmissionType::Incremental, Boundedness::Bounded);
        Self { input, requests, properties: Arc::new(properties) }
    }
}

impl fmt::Debug for ScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanExec").field("input", &self.input).finish_non_exhaustive()
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec: input={}", self.input)
    }
}

impl ExecutionPlan for ScanExec {
    fn name(&self) -> &str {
        "ScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> PlanResult<TreeNodeRecursion>,
    ) -> PlanResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> PlanResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> PlanResult<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!("partition {partition} of a leaf with one")));
        }
        let schema = self.schema();
        let (input, requests, declared) = (self.input, self.requests.clone(), Arc::clone(&schema));
        let batches = stream::try_unfold((requests, declared), move |(requests, declared)| async move {
            match pull(input, &requests).await? {
                None => Ok::<_, DataFusionError>(None),
                Some(batch) => Ok(Some((conform(&batch, &declared)?, (requests, declared)))),
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

async fn pull(input: usize, requests: &PullSender) -> PlanResult<Option<RecordBatch>> {
    let (reply, answer) = oneshot::channel();
    // Either end is gone when the task is over: nobody will look at the error.
    let over = || DataFusionError::from(SparkError::Cancelled);
    requests.send(PullRequest { input, reply }).map_err(|_| over())?;
    answer.await.map_err(|_| over())?
}

/// A plan that runs in a Spark task.
pub struct Execution {
    // Dropped in this order: what asks before what answers.
    stream: Option<SendableRecordBatchStream>,
    requests: PullReceiver,
    sources: Vec<Box<dyn BatchSource>>,
    hooks: Box<dyn TaskHooks>,
    runtime: Handle,
    schema: SchemaRef,
}

/// What the task's thread waits for.
enum Event {
    Pull(PullRequest),
    Output(Option<PlanResult<RecordBatch>>),
    /// Nothing, for [`KILL_CHECK`].
    Nothing,
}

impl Execution {
    /// Starts `plan`, whose leaves ask by the sender that belongs to `requests`, and which is of one partition. Nobody
    /// else may keep the plan: its leaves would seem to be at work for ever.
    pub fn start(
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
        requests: PullReceiver,
        sources: Vec<Box<dyn BatchSource>>,
        hooks: Box<dyn TaskHooks>,
        runtime: Handle,
    ) -> Result<Self> {
        let stream = {
            // Some operators spawn when they are started.
            let _guard = runtime.enter();
            plan.execute(0, context)?
        };
        Ok(Self { stream: Some(stream), requests, sources, hooks, runtime, schema: plan.schema() })
    }

    /// The schema of the output.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next batch with rows; none at the end. After an error the plan is over.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let result = self.run();
        if !matches!(result, Ok(Some(_))) {
            self.stream = None;
        }
        result
    }

    fn run(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if self.hooks.is_killed()? {
                return Err(SparkError::Cancelled);
            }
            match self.wait() {
                Event::Nothing => {}
                Event::Pull(request) => self.serve(request)?,
                Event::Output(None) => return Ok(None),
                Event::Output(Some(batch)) => {
                    let batch = batch?;
                    if batch.num_rows() > 0 {
                        return Ok(Some(batch));
                    }
                }
            }
        }
    }

    fn wait(&mut self) -> Event {
        let Some(stream) = &mut self.stream else { return Event::Output(None) };
        let requests = &mut self.requests;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                Some(request) = requests.recv() => Event::Pull(request),
                batch = stream.next() => Event::Output(batch),
                () = tokio::time::sleep(KILL_CHECK) => Event::Nothing,
            }
        })
    }

    /// Pulls for a leaf. Not within the runtime: the source may be another plan.
    fn serve(&mut self, request: PullRequest) -> Result<()> {
        let batch = match self.sources.get_mut(request.input) {
            Some(source) => source.next(),
            None => Err(SparkError::Invalid(format!("input {} of {}", request.input, self.sources.len()))),
        };
        match batch {
            Ok(batch) => {
                // A leaf that does not wait any more was dropped, by a limit for instance.
                drop(request.reply.send(Ok(batch)));
                Ok(())
            }
            // Not to the leaf: on its way through operators an error may lose what it was.
            Err(error) => Err(self.hooks.take_failure().unwrap_or(error)),
        }
    }
}

impl Drop for Execution {
    /// Waits until what the plan spawned is gone, so that no batch of a source is in use when the source goes.
    fn drop(&mut self) {
        self.stream = None;
        let requests = &mut self.requests;
        // Senders live in the plan's streams; a request that comes late is dropped, which tells its leaf.
        let quiet = async { while requests.recv().await.is_some() {} };
        let waited = self.runtime.block_on(async { tokio::time::timeout(QUIET_TIMEOUT, quiet).await });
        if waited.is_err() {
            // Something is stuck, and may still use batches of the sources: memory is lost rather than freed in use.
            std::mem::forget(std::mem::take(&mut self.sources));
        }
    }
}

/// The process's runtime, made when first needed.
pub struct Engine {
    runtime: Mutex<Option<Runtime>>,
}

impl Engine {
    /// The only one.
    pub fn get() -> &'static Self {
        static ENGINE: OnceLock<Engine> = OnceLock::new();
        ENGINE.get_or_init(|| Self { runtime: Mutex::new(None) })
    }

    /// A handle of the runtime, which has `threads` workers if it is made now.
    pub fn handle(&self, threads: usize) -> Result<Handle> {
        let mut runtime = self.runtime.lock();
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads.max(1)).thread_name("ballista-spark").enable_all();
        let made = builder.build().map_err(|source| SparkError::io("start threads", "tokio".as_ref(), source))?;
        let handle = made.handle().clone();
        *runtime = Some(made);
        Ok(handle)
    }

    /// Stops the runtime without waiting for more than a moment, so that the JVM can exit. Made again if needed again.
    pub fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_timeout(Duration::from_secs(3));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, ThreadId};

    use arrow::array::{ArrayRef, AsArray, Int32Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    struct Batches {
        batches: VecDeque<RecordBatch>,
        thread: ThreadId,
        fail: bool,
    }

    impl BatchSource for Batches {
        fn next(&mut self) -> Result<Option<RecordBatch>> {
            assert_eq!(thread::current().id(), self.thread);
            match self.batches.pop_front() {
                None if self.fail => Err(SparkError::Invalid("only the text".to_owned())),
                batch => Ok(batch),
            }
        }
    }

    struct Hooks {
        killed: Arc<AtomicBool>,
        fail: bool,
    }

    impl TaskHooks for Hooks {
        fn is_killed(&self) -> Result<bool> {
            Ok(self.killed.load(Ordering::Acquire))
        }

        fn take_failure(&self) -> Option<SparkError> {
            self.fail.then(|| SparkError::Unsupported("the original".to_owned()))
        }
    }

    fn execution(batches: i32, fail: bool) -> (Execution, Arc<AtomicBool>) {
        let batches = (0..batches).map(|i| {
            RecordBatch::try_from_iter([("x", Arc::new(Int32Array::from(vec![i, i + 1])) as ArrayRef)]).unwrap()
        });
        let source = Batches { batches: batches.collect(), thread: thread::current().id(), fail };
        let killed = Arc::new(AtomicBool::new(false));
        let hooks = Hooks { killed: Arc::clone(&killed), fail };
        let declared = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
        let (sender, requests) = mpsc::unbounded_channel();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(ScanExec::new(0, declared, sender));
        let runtime = Engine::get().handle(2).unwrap();
        let context = Arc::new(TaskContext::default());
        let started = Execution::start(plan, context, requests, vec![Box::new(source)], Box::new(hooks), runtime);
        (started.unwrap(), killed)
    }

    #[test]
    fn batches_are_pulled_on_the_tasks_thread_and_cast() {
        let (mut execution, _) = execution(3, false);
        let mut values = Vec::new();
        while let Some(batch) = execution.next_batch().unwrap() {
            values.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
        assert_eq!(values, [0, 1, 1, 2, 2, 3]);
        assert!(execution.next_batch().unwrap().is_none());
    }

    #[test]
    fn a_source_fails_with_its_original_error() {
        let (mut execution, _) = execution(1, true);
        execution.next_batch().unwrap().unwrap();
        assert!(matches!(execution.next_batch(), Err(SparkError::Unsupported(_))));
        assert!(execution.next_batch().unwrap().is_none());
    }

    #[test]
    fn a_killed_plan_stops_before_the_next_batch() {
        let (mut execution, killed) = execution(100, false);
        execution.next_batch().unwrap().unwrap();
        killed.store(true, Ordering::Release);
        assert!(matches!(execution.next_batch(), Err(SparkError::Cancelled)));
    }

    #[test]
    fn a_killed_plan_stops_while_an_operator_never_gives_anything() {
        let (mut execution, killed) = execution(1, false);
        let schema = Arc::clone(execution.schema());
        execution.stream = Some(Box::pin(RecordBatchStreamAdapter::new(schema, stream::pending())));
        let killer = thread::spawn(move || {
            thread::sleep(2 * KILL_CHECK);
            killed.store(true, Ordering::Release);
        });
        assert!(matches!(execution.next_batch(), Err(SparkError::Cancelled)));
        killer.join().unwrap();
    }

    #[test]
    fn a_plan_can_be_the_source_of_another() {
        struct Inner(Execution);
        impl BatchSource for Inner {
            fn next(&mut self) -> Result<Option<RecordBatch>> {
                self.0.next_batch()
            }
        }
        let (inner, _) = execution(2, false);
        let (mut outer, _) = execution(0, false);
        outer.sources[0] = Box::new(Inner(inner));
        assert_eq!(outer.next_batch().unwrap().unwrap().num_rows(), 2);
        assert_eq!(outer.next_batch().unwrap().unwrap().num_rows(), 2);
        assert!(outer.next_batch().unwrap().is_none());
    }
}
