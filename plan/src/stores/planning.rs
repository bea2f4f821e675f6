// SPDX-License-Identifier: Apache-2.0
//! Object stores where plans are decoded but no file is read.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

/// `context` for decoding plans whose stores are known to executors only: decoding a scan of Parquet looks for its
/// store, although nothing is read from it. In place of an unknown store it finds one that holds nothing.
pub fn planning_context(context: TaskContext) -> TaskContext {
    let below = Arc::clone(&context.runtime_env().object_store_registry);
    let registry = Arc::new(Unread { below });
    let runtime = RuntimeEnv { object_store_registry: registry, ..context.runtime_env().as_ref().clone() };
    context.with_runtime(Arc::new(runtime))
}

#[derive(Debug)]
struct Unread {
    below: Arc<dyn ObjectStoreRegistry>,
}

impl ObjectStoreRegistry for Unread {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.below.register_store(url, store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.below.get_store(url).or_else(|_| Ok(Arc::new(InMemory::new())))
    }
}
