// SPDX-License-Identifier: Apache-2.0
//! How large a job may be: the scheduler keeps account of every partition, and of every bucket of an executor; an executor
//! of every bucket of its tasks.

use datafusion::error::{DataFusionError, Result};

/// Partitions of one stage, and buckets of one exchange. Each partition may become a task.
const MAX_PARTITIONS: usize = 65_536;

/// Partitions × buckets of one exchange.
const MAX_CELLS: usize = 100_000_000;

/// Stages of one job, and partitions of all of them.
const MAX_STAGES: usize = 10_000;
const MAX_JOB_PARTITIONS: usize = 1_000_000;

/// The stages of a job that are planned.
#[derive(Debug, Default)]
pub(super) struct Size {
    stages: usize,
    partitions: usize,
}

impl Size {
    /// Adds a stage of so many partitions, which write so many buckets: all of them each, unless every one has its own. Its partitions, or an error of the
    /// user's if the job is too large.
    pub(super) fn add(&mut self, partitions: usize, buckets: usize, own: bool) -> Result<u32> {
        let cells = if own { buckets } else { partitions.saturating_mul(buckets) };
        self.stages += 1;
        self.partitions = self.partitions.saturating_add(partitions);
        let limits = [
            (partitions, MAX_PARTITIONS, "partitions in one stage"),
            (buckets, MAX_PARTITIONS, "buckets in one exchange"),
            (cells, MAX_CELLS, "partitions times buckets in one exchange"),
            (self.stages, MAX_STAGES, "stages"),
            (self.partitions, MAX_JOB_PARTITIONS, "partitions in all its stages"),
        ];
        match limits.into_iter().find(|(count, most, _)| count > most) {
            // Not more than the limit, which is a u32.
            None => Ok(partitions as u32),
            Some((count, most, what)) => Err(DataFusionError::Plan(format!(
                "the query has {count} {what}, and {most} are the limit; read fewer files at once, or ask for fewer \
                 partitions"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_named() {
        assert_eq!(Size::default().add(MAX_PARTITIONS, 1_500, false).unwrap(), 65_536);
        assert_eq!(Size::default().add(MAX_PARTITIONS, MAX_PARTITIONS, true).unwrap(), 65_536);
        let refused =
            |size: &mut Size, partitions, buckets| size.add(partitions, buckets, false).unwrap_err().to_string();
        let one_stage = refused(&mut Size::default(), MAX_PARTITIONS + 1, 1);
        assert!(one_stage.contains("65537 partitions in one stage, and 65536 are the limit"), "{one_stage}");
        assert!(refused(&mut Size::default(), 1, 1_000_000).contains("buckets in one exchange"));
        assert!(refused(&mut Size::default(), 60_000, 60_000).contains("partitions times buckets"));
        let mut many = Size { stages: MAX_STAGES, partitions: 0 };
        assert!(refused(&mut many, 1, 1).contains("10001 stages"));
        let mut wide = Size { stages: 1, partitions: MAX_JOB_PARTITIONS };
        assert!(refused(&mut wide, 1, 1).contains("1000001 partitions in all"));
    }
}
