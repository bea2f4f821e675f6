// SPDX-License-Identifier: Apache-2.0
//! Connections whose work is done by the cluster's threads, whichever runtime of the application asks for them.

use async_trait::async_trait;
use ballista_exchange::{Connector, ExchangeError, ExecutorAddress, LocalConnector};
use tokio::runtime::Handle;
use tonic::transport::Channel;

/// A [`LocalConnector`] that connects on the cluster's runtime, so that a connection outlives the runtime that first
/// used it.
#[derive(Debug)]
pub(super) struct ClusterConnector {
    runtime: Handle,
    local: LocalConnector,
}

impl ClusterConnector {
    pub(super) fn new(runtime: Handle, local: LocalConnector) -> Self {
        Self { runtime, local }
    }
}

#[async_trait]
impl Connector for ClusterConnector {
    async fn connect(&self, address: &ExecutorAddress) -> Result<Channel, ExchangeError> {
        let (local, address) = (self.local.clone(), address.clone());
        self.runtime.spawn(async move { local.connect(&address).await }).await?
    }
}
