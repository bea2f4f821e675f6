// SPDX-License-Identifier: Apache-2.0
//! What tasks report of their operators.

use ballista_plan::stage::StageOutput;
use ballista_proto as proto;
use datafusion::physical_plan::union::UnionExec;

use crate::cluster::Cluster;
use crate::plans::{call, scan};

/// Operator and output rows, where they were reported.
fn rows(metrics: &proto::TaskMetrics) -> Vec<(u32, u64)> {
    let rows = metrics.operators.iter().filter_map(|operator| {
        let metric = operator.metrics.iter().find(|metric| metric.name == "output_rows")?;
        Some((operator.operator, metric.value))
    });
    rows.collect()
}

#[tokio::test]
async fn only_launches_that_ask_for_metrics_get_them_and_by_operators_of_the_stage() {
    let mut cluster = Cluster::start(&["e"]).await;
    // 0: union, 1: call, 2: scan, 3: call, 4: scan.
    let inputs = vec![call("slow", scan(&[0..10], 5)), call("slow", scan(&[0..7], 5))];
    cluster.plan(0, UnionExec::try_new(inputs).unwrap(), StageOutput::Result { ordered: false });
    let quiet = cluster.run("e", 0, 0, &[0, 1], &[]).await;
    assert_eq!(quiet.output.metrics, None);
    cluster.metrics = true;
    let whole = cluster.run("e", 0, 1, &[0, 1], &[]).await.output.metrics.unwrap();
    assert!(whole.nanos > 0);
    let reported = rows(&whole);
    assert!(reported.contains(&(0, 17)) && reported.contains(&(1, 10)) && reported.contains(&(3, 7)), "{reported:?}");
    // The other input of the union is not there, and keeps its number all the same.
    let slice = rows(&cluster.run("e", 0, 2, &[1], &[]).await.output.metrics.unwrap());
    assert!(slice.contains(&(0, 7)) && slice.contains(&(3, 7)), "{slice:?}");
    assert!(slice.iter().all(|(operator, _)| ![1, 2].contains(operator)), "{slice:?}");
}
