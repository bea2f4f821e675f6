// SPDX-License-Identifier: Apache-2.0
//! Makes a session's queries run on a cluster.

use std::sync::Arc;

use ballista_plan::config::SessionConfigExt as _;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};

use crate::cache::ClusterCache;
use crate::cluster::Cluster;
use crate::functions::with_functions;
use crate::planner::BallistaQueryPlanner;
use crate::stores::add_stores;

/// `state` with the `ballista.*` settings, a planner for `cluster`, and object stores that open by themselves (`aws.*`,
/// `gcp.*`, `azure.*` and `http.*` settings). Catalog, functions (but see `ballista.functions.spark`), registered stores,
/// extension planners and the session's id stay. The cluster lives as long as the state and the plans made with it.
pub fn distributed_state(state: SessionState, cluster: Arc<Cluster>) -> SessionState {
    let (state, has_spark) = with_functions(add_stores(state));
    let session_id = state.session_id().to_owned();
    let cache = state.cache_factory().map_or_else(|| Arc::new(ClusterCache) as _, Arc::clone);
    let planner = BallistaQueryPlanner::new(cluster, Arc::clone(state.query_planner())).with_spark_functions(has_spark);
    let config = state.config().clone().with_ballista();
    let mut state = SessionStateBuilder::new_from_existing(state)
        .with_session_id(session_id)
        .with_query_planner(Arc::new(planner))
        .with_cache_factory(Some(cache))
        .build();
    // What the builder was given would have it make a new default catalog.
    *state.config_mut() = config;
    state
}
