// SPDX-License-Identifier: Apache-2.0
//! [`SessionContextExt`]: sessions whose queries run on a cluster.

use std::sync::Arc;

use async_trait::async_trait;
use ballista_client::{Cluster, distributed_state};
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionContext;

/// Constructors of a `SessionContext` on a cluster.
#[async_trait]
pub trait SessionContextExt: Sized {
    /// A session on a cluster inside this process: a scheduler and one executor with a slot per core, connected in
    /// memory. The cluster ends with the last clone of the context and the last plan made with it. Functions, tables
    /// and object stores may be registered on the context at any time.
    #[cfg(feature = "standalone")]
    async fn standalone() -> Result<Self>;

    /// The same for a session of the application's making. The executor has as many slots as the state has target
    /// partitions, and as much memory as its memory pool.
    #[cfg(feature = "standalone")]
    async fn standalone_with_state(state: SessionState) -> Result<Self>;

    /// A session on the cluster whose scheduler listens at `url`, for instance `df://localhost:50050`. Fails if nobody
    /// answers there. Files are listed here and read by the executors, so both have to see them under one name;
    /// functions that DataFusion does not have must be registered with the daemons too.
    async fn remote(url: &str) -> Result<Self>;

    /// The same for a session of the application's making.
    async fn remote_with_state(url: &str, state: SessionState) -> Result<Self>;
}

#[async_trait]
impl SessionContextExt for SessionContext {
    #[cfg(feature = "standalone")]
    async fn standalone() -> Result<Self> {
        Self::standalone_with_state(default_state()).await
    }

    #[cfg(feature = "standalone")]
    async fn standalone_with_state(state: SessionState) -> Result<Self> {
        let cluster = crate::standalone::start(&state).await?;
        Ok(Self::new_with_state(distributed_state(state, Arc::new(cluster))))
    }

    async fn remote(url: &str) -> Result<Self> {
        Self::remote_with_state(url, default_state()).await
    }

    async fn remote_with_state(url: &str, state: SessionState) -> Result<Self> {
        let cluster = Cluster::connect(url).await?;
        Ok(Self::new_with_state(distributed_state(state, Arc::new(cluster))))
    }
}

fn default_state() -> SessionState {
    SessionStateBuilder::new_with_default_features().build()
}
