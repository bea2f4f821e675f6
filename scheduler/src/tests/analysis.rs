// SPDX-License-Identifier: Apache-2.0
//! How a job ran, for clients that ask.

use ballista_proto as proto;
use proto::job_event::Event;

use super::harness::{Cluster, Executor, Query, buckets, inline, request};

/// Output of a task whose operator 0 yielded so many rows.
fn reported(rows: u64, output: proto::TaskOutput) -> proto::TaskOutput {
    let metric = proto::Metric { name: "output_rows".into(), kind: proto::MetricKind::Rows.into(), value: rows };
    let operators = vec![proto::OperatorMetrics { operator: 0, metrics: vec![metric] }];
    proto::TaskOutput { metrics: Some(proto::TaskMetrics { nanos: rows, operators }), ..output }
}

async fn run(executor: &mut Executor, query: &mut Query, analyze: bool) {
    for rows in [10, 30] {
        let launch = executor.launch().await;
        assert_eq!(launch.metrics, analyze);
        executor.finish(&launch.task.unwrap(), reported(rows, buckets(&[rows]))).await;
    }
    let launch = executor.launch().await;
    assert_eq!(launch.metrics, analyze);
    executor.finish(&launch.task.unwrap(), reported(1, inline(b""))).await;
    query.part().await;
}

#[tokio::test]
async fn a_job_is_analysed_only_if_its_client_wants_to_know() {
    let cluster = Cluster::start();
    let mut executor = cluster.executor("a", 1).await;
    let mut quiet = cluster.submit("shuffle 2").await;
    run(&mut executor, &mut quiet, false).await;
    quiet.finished().await;
    executor.freed().await;

    let curious = proto::ExecuteRequest { analyze: true, ..request("shuffle 2") };
    let mut curious = Query::open(cluster.client().await.execute(curious).await.unwrap().into_inner()).await;
    run(&mut executor, &mut curious, true).await;
    let Some(Event::Analysis(analysis)) = curious.next().await else { panic!("no analysis before the end") };
    curious.finished().await;
    let [first, last] = analysis.stages.as_slice() else { panic!("{analysis:?}") };
    assert_eq!((first.stage, &last.inputs[..], first.tasks.len(), last.tasks.len()), (0, &[0][..], 2, 1));
    assert_eq!(first.rows, Some(proto::Spread { count: 2, sum: 40, min: 10, median: 30, max: 30 }));
    assert!(first.tasks.iter().all(|task| task.executor == "a") && first.nanos > 0);
    assert_eq!(first.operators[0].operator, "ScriptedExec");
    assert_eq!(first.operators[0].metrics[0].values.map(|values| values.sum), Some(40));
    assert_eq!(analysis.notes, ["stage 0 was larger than expected"]);
    cluster.is_empty().await;
}
