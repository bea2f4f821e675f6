// SPDX-License-Identifier: Apache-2.0
//! The entry points: arguments in, one safe call, result out.
//!
//! Every number is a `long` on both sides, but for lengths of Java arrays. Structures come as bytes (see
//! [`crate::config`]), objects as handles (see [`crate::handles`]), memory as addresses, which the JVM side promises to
//! be what they are said to be until the call returns.

use std::ffi::c_void;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use jni::objects::{GlobalRef, JByteArray, JClass, JLongArray, JObject, JObjectArray, JString, JThrowable};
use jni::sys::{JNI_ERR, JNI_FALSE, JNI_VERSION_1_8, jboolean, jint, jlong, jlongArray};
use jni::{JNIEnv, JavaVM, NativeMethod};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::block::BlockReader;
use crate::config::{self, ShuffleWriterMessage};
use crate::error::{Result, SparkError};
use crate::exec::{BatchSource, Engine, Execution, TaskHooks};
use crate::ffi;
use crate::handles::Handles;
use crate::jvm::guard::{Checked, JavaThrowable, guard};
use crate::plan::{self, PlanMessage};
use crate::row::carrier_schema;
use crate::writer::{Output, SpillEncoder, SpillReport};

/// The class that declares the methods below.
pub const NATIVE_CLASS: &str = "org/apache/comet/Native";

/// Rows of a batch that the end of a plan is told by.
const END: jlong = -1;

/// A reader keeps memory for its next blocks up to this.
const MAX_KEPT_BYTES: usize = 8 << 20;

static WRITERS: Handles<SpillEncoder> = Handles::new(1, "shuffle writer");
static READERS: Handles<Mutex<Reader>> = Handles::new(2, "shuffle reader");
static PLANS: Handles<Plan> = Handles::new(3, "plan");

/// A reader of shuffle blocks.
struct Reader {
    blocks: BlockReader,
    /// Blocks that were copied out of the JVM's array.
    stored: Vec<u8>,
}

/// A running plan. Its task's thread holds the lock while it executes.
struct Plan {
    schema: SchemaRef,
    /// Of every operator, parents before their children.
    metrics: Vec<MetricsSet>,
    execution: Mutex<Option<Execution>>,
}

type Env<'local> = JNIEnv<'local>;

/// The methods of [`NATIVE_CLASS`]: name and signature. The JVM side's test compares its declarations with this list.
pub const METHODS: [(&str, &str); 16] = [
    ("createShuffleWriter", "([BLorg/apache/comet/NativeTask;)J"),
    ("writeSortedFileNative", "(JLjava/lang/String;ZJJ)[J"),
    ("writeSortedSinkNative", "(JLorg/apache/comet/BlockSink;JJ)[J"),
    ("shuffleChecksums", "(J)[J"),
    ("cancelShuffleWriter", "(J)V"),
    ("releaseShuffleWriter", "(J)V"),
    ("createShuffleReader", "([B)J"),
    ("decodeShuffleBlock", "(J[BJJ)J"),
    ("releaseShuffleReader", "(J)V"),
    ("createPlan", "([B[Ljava/lang/Object;Lorg/apache/comet/NativeTask;)J"),
    ("planSchema", "(JJ)V"),
    ("executePlan", "(JJ)J"),
    ("planMetrics", "(J)[J"),
    ("releasePlan", "(J)V"),
    ("stopRuntime", "()V"),
    ("liveHandles", "()J"),
];

/// The functions of [`METHODS`], in the same order.
fn functions() -> [*mut c_void; METHODS.len()] {
    [
        create_shuffle_writer as *mut c_void,
        write_sorted_file as *mut c_void,
        write_sorted_sink as *mut c_void,
        shuffle_checksums as *mut c_void,
        cancel_shuffle_writer as *mut c_void,
        release_shuffle_writer as *mut c_void,
        create_shuffle_reader as *mut c_void,
        decode_shuffle_block as *mut c_void,
        release_shuffle_reader as *mut c_void,
        create_plan as *mut c_void,
        plan_schema as *mut c_void,
        execute_plan as *mut c_void,
        plan_metrics as *mut c_void,
        release_plan as *mut c_void,
        stop_runtime as *mut c_void,
        live_handles as *mut c_void,
    ]
}

static VM: OnceLock<JavaVM> = OnceLock::new();

/// Called by the JVM when the library is loaded: registers all methods, or fails the load.
#[unsafe(no_mangle)]
#[allow(non_snake_case)] // The name is JNI's.
pub extern "system" fn JNI_OnLoad(vm: JavaVM, _reserved: *mut c_void) -> jint {
    let registered = vm.get_env().and_then(|mut env| {
        let methods: Vec<NativeMethod> = METHODS
            .iter()
            .zip(functions())
            .map(|((name, signature), function)| NativeMethod {
                name: (*name).into(),
                sig: (*signature).into(),
                fn_ptr: function,
            })
            .collect();
        env.register_native_methods(NATIVE_CLASS, &methods)
    });
    if registered.is_err() {
        // The pending exception (which method, which class) is what the caller of `System.load` sees.
        return JNI_ERR;
    }
    // Set before: the library was unloaded and loaded again, by the same JVM.
    drop(VM.set(vm));
    JNI_VERSION_1_8
}

/// Called by the JVM before it unloads the library.
#[unsafe(no_mangle)]
#[allow(non_snake_case)] // The name is JNI's.
pub extern "system" fn JNI_OnUnload(_vm: JavaVM, _reserved: *mut c_void) {
    // A panic must not get out; threads that do not end are left to the process's end.
    drop(std::panic::catch_unwind(|| Engine::get().stop()));
}

// --- shuffle, writing ---

extern "system" fn create_shuffle_writer<'l>(
    mut env: Env<'l>,
    _: JClass<'l>,
    config: JByteArray<'l>,
    task: JObject<'l>,
) -> jlong {
    guard(&mut env, |env| {
        let bytes = env.convert_byte_array(&config).checked(env)?;
        let task = JavaTask { task: env.new_global_ref(&task).checked(env)? };
        let is_killed = Box::new(move || task.is_killed());
        WRITERS.insert(SpillEncoder::try_new(ShuffleWriterMessage::read(&bytes)?, is_killed)?)
    })
}

/// Writes the rows of `count` records at `records` to `path`. The result: see [`report`].
extern "system" fn write_sorted_file<'l>(
    mut env: Env<'l>,
    _: JClass<'l>,
    writer: jlong,
    path: JString<'l>,
    append: jboolean,
    records: jlong,
    count: jlong,
) -> jlongArray {
    let array = guard(&mut env, |env| {
        let writer = WRITERS.get(writer)?;
        let path: String = env.get_string(&path).checked(env)?.into();
        // SAFETY: the JVM side keeps the records, and the pages they point into, until this returns.
        let records = unsafe { slice_at(records, count)? };
        // SAFETY: as above.
        let written = unsafe { writer.write_sorted_file(Path::new(&path), append != JNI_FALSE, records)? };
        report(env, &written).map(Some)
    });
    raw(array)
}

/// As [`write_sorted_file`], to an `org.apache.comet.BlockSink`.
extern "system" fn write_sorted_sink<'l>(
    mut env: Env<'l>,
    _: JClass<'l>,
    writer: jlong,
    sink: JObject<'l>,
    records: jlong,
    count: jlong,
) -> jlongArray {
    let array = guard(&mut env, |env| {
        let writer = WRITERS.get(writer)?;
        // SAFETY: the JVM side keeps the records, and the pages they point into, until this returns.
        let records = unsafe { slice_at(records, count)? };
        let mut sink = JavaSink { env: &mut *env, sink, array: None };
        // SAFETY: as above.
        let written = unsafe { writer.write_sorted(records, &mut sink)? };
        report(env, &written).map(Some)
    });
    raw(array)
}

/// Bytes, rows, row bytes, blocks, nanoseconds of encoding and of writing; then partition and bytes of each partition
/// that got rows, ascending.
fn report<'local>(env: &mut Env<'local>, report: &SpillReport) -> Result<JLongArray<'local>> {
    let mut numbers = vec![
        report.bytes as i64,
        report.rows as i64,
        report.row_bytes as i64,
        report.blocks as i64,
        nanos(report.encode_time),
        nanos(report.write_time),
    ];
    numbers.extend(report.partitions.iter().flat_map(|(partition, bytes)| [i64::from(*partition), *bytes as i64]));
    long_array(env, &numbers)
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// `org.apache.comet.BlockSink`: `void write(long partition, byte[] bytes, long length)`.
struct JavaSink<'a, 'local> {
    env: &'a mut Env<'local>,
    sink: JObject<'local>,
    /// Lent to each call, and its length.
    array: Option<(JByteArray<'local>, usize)>,
}

impl Output for JavaSink<'_, '_> {
    fn write(&mut self, partition: u32, bytes: &[u8]) -> Result<()> {
        let length = jint::try_from(bytes.len());
        let length = length.map_err(|_| SparkError::Invalid(format!("{} bytes at once", bytes.len())))?;
        if self.array.as_ref().is_none_or(|(_, room)| *room < bytes.len()) {
            if let Some((former, _)) = self.array.take() {
                self.env.delete_local_ref(former).checked(self.env)?;
            }
            self.array = Some((self.env.new_byte_array(length).checked(self.env)?, bytes.len()));
        }
        let Some((array, _)) = &self.array else { return Ok(()) };
        // SAFETY: Java's bytes have a sign, ours have none; nothing else differs.
        let signed = unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<i8>(), bytes.len()) };
        self.env.set_byte_array_region(array, 0, signed).checked(self.env)?;
        let arguments = [i64::from(partition).into(), array.into(), i64::from(length).into()];
        self.env.call_method(&self.sink, "write", "(J[BJ)V", &arguments).checked(self.env).map(drop)
    }
}

/// The checksums of all partitions; null if they are not wanted.
extern "system" fn shuffle_checksums<'l>(mut env: Env<'l>, _: JClass<'l>, writer: jlong) -> jlongArray {
    let array = guard(&mut env, |env| match WRITERS.get(writer)?.checksums() {
        Some(values) => long_array(env, &values).map(Some),
        None => Ok(None),
    });
    raw(array)
}

extern "system" fn cancel_shuffle_writer<'l>(mut env: Env<'l>, _: JClass<'l>, writer: jlong) {
    guard(&mut env, |_| {
        WRITERS.get(writer)?.cancel();
        Ok(())
    });
}

extern "system" fn release_shuffle_writer<'l>(mut env: Env<'l>, _: JClass<'l>, writer: jlong) {
    guard(&mut env, |_| WRITERS.remove(writer).map(drop));
}

// --- shuffle, reading ---

/// A reader of blocks of rows of a schema, given as an Arrow IPC message.
extern "system" fn create_shuffle_reader<'l>(mut env: Env<'l>, _: JClass<'l>, schema: JByteArray<'l>) -> jlong {
    guard(&mut env, |env| {
        let bytes = env.convert_byte_array(&schema).checked(env)?;
        let carrier = carrier_schema(config::schema(&bytes)?.as_ref())?;
        let blocks = BlockReader::try_new(carrier)?;
        READERS.insert(Mutex::new(Reader { blocks, stored: Vec::new() }))
    })
}

/// Decodes the blocks, whole with their length fields, that are the first `length` of `bytes`, and exports them as
/// one batch to the `ArrowArray` at `array`. The result: its rows.
extern "system" fn decode_shuffle_block<'l>(
    mut env: Env<'l>,
    _: JClass<'l>,
    reader: jlong,
    bytes: JByteArray<'l>,
    length: jlong,
    array: jlong,
) -> jlong {
    guard(&mut env, |env| {
        let reader = READERS.get(reader)?;
        let mut reader = reader.lock();
        let Reader { blocks, stored } = &mut *reader;
        let length = usize::try_from(length).map_err(|_| SparkError::Invalid(format!("blocks of {length} bytes")))?;
        let room = env.get_array_length(&bytes).checked(env)?;
        if i64::from(room) < length as i64 {
            return Err(SparkError::Invalid(format!("{length} bytes of an array of {room}")));
        }
        stored.resize(length, 0);
        // SAFETY: Java's bytes have a sign, ours have none; nothing else differs.
        let signed = unsafe { std::slice::from_raw_parts_mut(stored.as_mut_ptr().cast::<i8>(), length) };
        env.get_byte_array_region(&bytes, 0, signed).checked(env)?;
        let batch = blocks.read_joined(stored)?;
        if stored.capacity() > MAX_KEPT_BYTES {
            *stored = Vec::new();
        }
        // SAFETY: the JVM side allocated an empty `ArrowArray` at this address.
        unsafe { ffi::export_batch(&batch, array as u64)? };
        Ok(batch.num_rows() as jlong)
    })
}

extern "system" fn release_shuffle_reader<'l>(mut env: Env<'l>, _: JClass<'l>, reader: jlong) {
    guard(&mut env, |_| READERS.remove(reader).map(drop));
}

// --- plans ---

/// Starts a plan. `inputs` holds an `org.apache.arrow.c.ArrowArrayStream` per input, whose streams native code owns from
/// here on, also if this fails.
extern "system" fn create_plan<'l>(
    mut env: Env<'l>,
    _: JClass<'l>,
    plan: JByteArray<'l>,
    inputs: JObjectArray<'l>,
    task: JObject<'l>,
) -> jlong {
    guard(&mut env, |env| {
        let sources = import_inputs(env, &inputs)?;
        let bytes = env.convert_byte_array(&plan).checked(env)?;
        let message: PlanMessage = config::decode(&bytes)?;
        let root = message.root.as_ref().ok_or_else(|| SparkError::Invalid("a plan without its root".to_owned()))?;
        let hooks = JavaTask { task: env.new_global_ref(&task).checked(env)? };
        let (sender, requests) = mpsc::unbounded_channel();
        let operators = plan::build(root, &sender, sources.len())?;
        // The leaves have their own; with this one the end of the plan would never come.
        drop(sender);
        let config = SessionConfig::new().with_batch_size((message.batch_rows as usize).max(1));
        let context = Arc::new(TaskContext::default().with_session_config(config));
        let runtime = Engine::get().handle(message.threads as usize)?;
        let started = Arc::clone(&operators);
        let execution = Execution::start(started, context, requests, sources, Box::new(hooks), runtime)?;
        let mut metrics = Vec::new();
        metrics_of(operators.as_ref(), &mut metrics);
        PLANS.insert(Plan { metrics, schema: Arc::clone(execution.schema()), execution: Mutex::new(Some(execution)) })
    })
}

/// Writes the schema of the plan's batches to an `ArrowSchema`.
extern "system" fn plan_schema<'l>(mut env: Env<'l>, _: JClass<'l>, plan: jlong, schema: jlong) {
    guard(&mut env, |_| {
        let plan = PLANS.get(plan)?;
        // SAFETY: the JVM side allocated an empty `ArrowSchema` at this address.
        unsafe { ffi::export_schema(&plan.schema, schema as u64) }
    });
}

/// Exports the next batch to the `ArrowArray` at `array`. The result: its rows, or [`END`]; nothing is exported then.
extern "system" fn execute_plan<'l>(mut env: Env<'l>, _: JClass<'l>, plan: jlong, array: jlong) -> jlong {
    guard(&mut env, |_| {
        let plan = PLANS.get(plan)?;
        let mut execution = plan.execution.lock();
        let execution = execution.as_mut().ok_or_else(|| SparkError::Invalid("a released plan".to_owned()))?;
        match execution.next_batch()? {
            None => Ok(END),
            Some(batch) => {
                // SAFETY: the JVM side allocated an empty `ArrowArray` at this address.
                unsafe { ffi::export_batch(&batch, array as u64)? };
                Ok(batch.num_rows() as jlong)
            }
        }
    })
}

/// Rows and nanoseconds of every operator, parents before their children.
extern "system" fn plan_metrics<'l>(mut env: Env<'l>, _: JClass<'l>, plan: jlong) -> jlongArray {
    let array = guard(&mut env, |env| {
        let plan = PLANS.get(plan)?;
        let number = |value: Option<usize>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
        let pairs = plan.metrics.iter().flat_map(|one| [number(one.output_rows()), number(one.elapsed_compute())]);
        let numbers: Vec<i64> = pairs.collect();
        long_array(env, &numbers).map(Some)
    });
    raw(array)
}

/// The metrics of operators that were started, whose values go on counting.
fn metrics_of(operator: &dyn ExecutionPlan, all: &mut Vec<MetricsSet>) {
    all.push(operator.metrics().unwrap_or_default());
    for child in operator.children() {
        metrics_of(child.as_ref(), all);
    }
}

/// Stops the threads of native plans, so that the JVM can exit. A later plan starts them again.
extern "system" fn stop_runtime<'l>(mut env: Env<'l>, _: JClass<'l>) {
    guard(&mut env, |_| {
        Engine::get().stop();
        Ok(())
    });
}

/// Native objects that are alive, for tests of leaks.
extern "system" fn live_handles<'l>(mut env: Env<'l>, _: JClass<'l>) -> jlong {
    guard(&mut env, |_| Ok((WRITERS.len() + READERS.len() + PLANS.len()) as jlong))
}

/// Ends the plan: when this returns, nothing of it runs and its inputs are closed.
extern "system" fn release_plan<'l>(mut env: Env<'l>, _: JClass<'l>, plan: jlong) {
    guard(&mut env, |_| {
        let plan = PLANS.remove(plan)?;
        // Waits for a call that is under way; the inputs are closed on this thread.
        drop(plan.execution.lock().take());
        Ok(())
    });
}

/// The streams of the inputs, all of them taken over even if one is bad.
fn import_inputs(env: &mut Env<'_>, inputs: &JObjectArray<'_>) -> Result<Vec<Box<dyn BatchSource>>> {
    let count = env.get_array_length(inputs).checked(env)?;
    let mut sources: Vec<Result<Box<dyn BatchSource>>> = Vec::new();
    for index in 0..count {
        let source = import_input(env, inputs, index);
        sources.push(source);
    }
    sources.into_iter().collect()
}

fn import_input(env: &mut Env<'_>, inputs: &JObjectArray<'_>, index: jint) -> Result<Box<dyn BatchSource>> {
    let stream = env.get_object_array_element(inputs, index).checked(env)?;
    let address = env.call_method(&stream, "memoryAddress", "()J", &[]).and_then(|value| value.j()).checked(env)?;
    env.delete_local_ref(stream).checked(env)?;
    // SAFETY: a Java `ArrowArrayStream` has the C struct at its address, and the JVM side leaves it to us.
    let reader = unsafe { ffi::import_stream(address as u64)? };
    Ok(Box::new(reader))
}

/// `org.apache.comet.NativeTask`: `boolean isKilled()` and `Throwable takeFailure()`.
struct JavaTask {
    task: GlobalRef,
}

impl TaskHooks for JavaTask {
    fn is_killed(&self) -> Result<bool> {
        let mut env = attached()?;
        env.call_method(&self.task, "isKilled", "()Z", &[]).and_then(|value| value.z()).checked(&mut env)
    }

    fn take_failure(&self) -> Option<SparkError> {
        let mut env = attached().ok()?;
        let failure = env.call_method(&self.task, "takeFailure", "()Ljava/lang/Throwable;", &[]);
        match failure.and_then(|value| value.l()).checked(&mut env) {
            Ok(throwable) if throwable.is_null() => None,
            Ok(throwable) => {
                let throwable = JThrowable::from(throwable);
                let kept = JavaThrowable::new(&mut env, &throwable).map_or_else(|error| error, SparkError::Java);
                drop(env.delete_local_ref(throwable));
                Some(kept)
            }
            Err(error) => Some(error),
        }
    }
}

/// The environment of this thread, which is one of Java's.
fn attached() -> Result<JNIEnv<'static>> {
    let vm = VM.get().ok_or_else(|| SparkError::Invalid("the library was not loaded by a JVM".to_owned()))?;
    // Its local references live until the native method that is on the stack returns; `'static` only says that the VM
    // outlives everything.
    vm.get_env().map_err(SparkError::Jni)
}

fn long_array<'local>(env: &mut Env<'local>, values: &[i64]) -> Result<JLongArray<'local>> {
    let length = jint::try_from(values.len());
    let length = length.map_err(|_| SparkError::Invalid(format!("an array of {} numbers", values.len())))?;
    let array = env.new_long_array(length).checked(env)?;
    env.set_long_array_region(&array, 0, values).checked(env)?;
    Ok(array)
}

fn raw(array: Option<JLongArray<'_>>) -> jlongArray {
    array.map_or(std::ptr::null_mut(), |array| array.into_raw())
}

/// `count` values at `address`; none if `count` is 0, whatever the address.
///
/// # Safety
///
/// The memory must hold `count` valid values of `T`, and nobody may write to or free it during `'a`.
unsafe fn slice_at<'a, T>(address: jlong, count: jlong) -> Result<&'a [T]> {
    let invalid = || SparkError::Invalid(format!("{count} values at address {address:#x}"));
    let count = usize::try_from(count).map_err(|_| invalid())?;
    let start = usize::try_from(address).map_err(|_| invalid())?;
    if count == 0 {
        return Ok(&[]);
    }
    let fits = count.checked_mul(size_of::<T>()).is_some_and(|bytes| isize::try_from(bytes).is_ok());
    if start == 0 || !start.is_multiple_of(align_of::<T>()) || !fits {
        return Err(invalid());
    }
    // SAFETY: the caller's promise; address, alignment and size were checked.
    Ok(unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), count) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::Record;

    #[test]
    fn every_method_is_listed_once_with_a_function() {
        let mut names: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), functions().len());
        assert!(functions().iter().all(|function| !function.is_null()));
    }

    #[test]
    fn bad_addresses_are_refused() {
        // SAFETY: all but the empty slice are refused.
        unsafe {
            assert_eq!(slice_at::<Record>(0, 0).unwrap(), []);
            assert!(slice_at::<Record>(0, 1).is_err());
            assert!(slice_at::<Record>(9, 1).is_err());
            assert!(slice_at::<Record>(16, -1).is_err());
            assert!(slice_at::<Record>(16, i64::MAX).is_err());
        }
    }
}
