// SPDX-License-Identifier: Apache-2.0
//! What planning changed because of measured sizes, in words: `EXPLAIN ANALYZE` shows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ballista_core::StageId;
use ballista_core::units::Bytes;
use ballista_plan::reader::ShuffleReaderExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

/// A join by its type and keys.
pub(super) fn join_in_words(join: &HashJoinExec) -> String {
    let keys: Vec<String> = join.on().iter().map(|(left, right)| format!("{left} = {right}")).collect();
    format!("{} join on {}", join.join_type(), keys.join(", "))
}

/// The build side of a join goes to every executor.
pub(super) fn broadcast(join: &HashJoinExec, build: &ShuffleReaderExec, limit: usize, is_swapped: bool) -> String {
    format!(
        "{}: {}stage {} is broadcast, because it yielded {}, at most {} is allowed; the other side stays in place",
        join_in_words(join),
        if is_swapped { "sides swapped, " } else { "" },
        build.stage(),
        bytes_of(build),
        Bytes(limit as u64),
    )
}

/// The smaller side of a join becomes the build side.
pub(super) fn swapped(join: &HashJoinExec, build: &ShuffleReaderExec, probe: &ShuffleReaderExec) -> String {
    format!(
        "{}: sides swapped, because stage {} yielded {}, stage {} only {}",
        join_in_words(join),
        build.stage(),
        bytes_of(build),
        probe.stage(),
        bytes_of(probe),
    )
}

/// `node` can yield nothing.
pub(super) fn removed(node: &Arc<dyn ExecutionPlan>, is_empty: impl Fn(&ShuffleReaderExec) -> bool) -> Option<String> {
    let readers = node.children().into_iter().filter_map(|child| child.downcast_ref::<ShuffleReaderExec>());
    let stages: Vec<String> =
        readers.filter(|reader| is_empty(reader)).map(|reader| reader.stage().to_string()).collect();
    let reason = format!("because stage {} yielded no row", stages.join(" and stage "));
    (!stages.is_empty()).then(|| format!("{} is left out, {reason}", node.name()))
}

/// The buckets that `stage` reads are joined to fewer partitions.
pub(super) fn joined_buckets(
    stage: StageId,
    plan: &Arc<dyn ExecutionPlan>,
    bucket_bytes: &BTreeMap<StageId, Vec<u64>>,
) -> Option<String> {
    let mut readers = vec![];
    hash_readers(plan, &mut readers);
    let ranges = readers.first()?.ranges();
    let buckets = ranges.last()?.end;
    if ranges.len() == buckets as usize {
        return None;
    }
    let mut inputs: Vec<StageId> = readers.iter().map(|reader| reader.stage()).collect();
    inputs.sort_unstable();
    inputs.dedup();
    let bytes = inputs.iter().filter_map(|input| bucket_bytes.get(input)).flatten().sum();
    let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
    let (word, partitions) = (if inputs.len() == 1 { "stage" } else { "stages" }, ranges.len());
    let word_for_partitions = if partitions == 1 { "partition" } else { "partitions" };
    Some(format!(
        "stage {stage} reads the {buckets} buckets of {word} {} as {partitions} {word_for_partitions}, because they \
         hold {}",
        inputs.join(", "),
        Bytes(bytes),
    ))
}

fn hash_readers<'a>(plan: &'a Arc<dyn ExecutionPlan>, readers: &mut Vec<&'a ShuffleReaderExec>) {
    if let Some(reader) = plan.downcast_ref::<ShuffleReaderExec>()
        && !reader.is_broadcast()
        && !reader.hash_keys().is_empty()
    {
        readers.push(reader);
    }
    plan.children().into_iter().for_each(|child| hash_readers(child, readers));
}

fn bytes_of(reader: &ShuffleReaderExec) -> String {
    reader.statistics().bytes.map_or_else(|| "an unknown size".to_owned(), |bytes| Bytes(bytes as u64).to_string())
}
