// SPDX-License-Identifier: Apache-2.0
//! Makes the `SessionContext` of a session: functions and settings of the scheduler's base, a catalog of its own.
//!
//! Tables that the base has are there from the start. Its catalogs and schemas in memory are copied, so what a session
//! creates or drops is its own; those of another kind are the application's, and shared by all sessions.

use std::any::Any;
use std::sync::Arc;

use ballista_client::{ClientConfigExt as _, Cluster, distributed_state, is_store_option, stores_for_another};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider,
};
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionContext;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use uuid::Uuid;

use crate::session::SessionProvider;

/// What every session starts with; its own settings go before it. `SHOW` needs it.
const SETTINGS: [(&str, &str); 1] = [("datafusion.catalog.information_schema", "true")];

/// A session on `cluster` with these settings. An unknown one is an error.
pub(super) async fn session_context(
    sessions: &dyn SessionProvider,
    settings: Vec<(String, String)>,
    cluster: Arc<Cluster>,
    codec: Option<Arc<dyn PhysicalExtensionCodec>>,
) -> Result<SessionContext> {
    let id = Uuid::new_v4().to_string();
    let defaults = SETTINGS.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (of_stores, settings): (Vec<_>, Vec<_>) =
        defaults.into_iter().chain(settings).partition(|(key, _)| is_store_option(key));
    let base = sessions.session(&id, &settings)?;
    let mut config = base.config().clone();
    if let Some(codec) = codec {
        config = config.with_ballista_physical_extension_codec(codec);
    }
    let mut state = SessionStateBuilder::new_from_existing(base.as_ref().clone())
        .with_session_id(id)
        .with_catalog_list(own_catalogs(&base).await?)
        .build();
    // What the builder was given would have it make a new default catalog.
    *state.config_mut() = config;
    let mut state = distributed_state(stores_for_another(state)?, cluster);
    for (key, value) in of_stores {
        state.config_mut().options_mut().set(&key, &value)?;
    }
    // Lets a query name a file in the place of a table.
    Ok(SessionContext::new_with_state(state).enable_url_table())
}

/// Copies of the catalogs in memory that `base` has, so that no session sees what another one does to them, and the
/// catalog and schema that the session's own settings name.
async fn own_catalogs(base: &SessionState) -> Result<Arc<dyn CatalogProviderList>> {
    let list = MemoryCatalogProviderList::new();
    for name in base.catalog_list().catalog_names() {
        let Some(shared) = base.catalog_list().catalog(&name) else { continue };
        list.register_catalog(name, own_catalog(shared).await?);
    }
    let options = &base.config_options().catalog;
    let catalog = list.catalog(&options.default_catalog).unwrap_or_else(|| {
        let catalog: Arc<dyn CatalogProvider> = Arc::new(MemoryCatalogProvider::new());
        list.register_catalog(options.default_catalog.clone(), Arc::clone(&catalog));
        catalog
    });
    if catalog.schema(&options.default_schema).is_none() {
        catalog.register_schema(&options.default_schema, Arc::new(MemorySchemaProvider::new()))?;
    }
    Ok(Arc::new(list))
}

/// A copy of a catalog in memory. One of the application's own kind is shared; what it allows is its own decision.
async fn own_catalog(shared: Arc<dyn CatalogProvider>) -> Result<Arc<dyn CatalogProvider>> {
    if !(shared.as_ref() as &dyn Any).is::<MemoryCatalogProvider>() {
        return Ok(shared);
    }
    let own = MemoryCatalogProvider::new();
    for name in shared.schema_names() {
        let Some(schema) = shared.schema(&name) else { continue };
        if (schema.as_ref() as &dyn Any).is::<MemorySchemaProvider>() {
            let copy = MemorySchemaProvider::new();
            copy_tables(schema.as_ref(), &copy).await?;
            own.register_schema(&name, Arc::new(copy))?;
        } else {
            own.register_schema(&name, schema)?;
        }
    }
    Ok(Arc::new(own))
}

async fn copy_tables(from: &dyn SchemaProvider, to: &dyn SchemaProvider) -> Result<()> {
    for name in from.table_names() {
        if let Some(table) = from.table(&name).await? {
            to.register_table(name, table)?;
        }
    }
    Ok(())
}
