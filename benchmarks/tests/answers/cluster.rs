// SPDX-License-Identifier: Apache-2.0
//! A scheduler and several executors in this process, on real sockets.

use ballista::{ExecutorBuilder, ExecutorHandle, SchedulerBuilder, SchedulerHandle, Size};
use tokio::net::TcpListener;

/// Lives as long as the test.
pub struct TestCluster {
    _scheduler: SchedulerHandle,
    _executors: Vec<ExecutorHandle>,
    /// Where clients connect.
    pub url: String,
}

impl TestCluster {
    /// `executors` executors of `slots` slots and `memory` bytes each.
    pub async fn start(executors: usize, slots: u32, memory: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let scheduler = SchedulerBuilder::new().build().expect("a scheduler").serve(listener).expect("serving");
        let mut handles = Vec::new();
        for _ in 0..executors {
            let executor = ExecutorBuilder::new()
                .with_slots(slots)
                .with_memory(Size::Bytes(memory))
                .with_bind_address("127.0.0.1", 0)
                .with_scheduler("127.0.0.1", port)
                .start()
                .await
                .expect("an executor");
            executor.registered().await.expect("registration");
            handles.push(executor);
        }
        Self { _scheduler: scheduler, _executors: handles, url: format!("df://127.0.0.1:{port}") }
    }
}
