// SPDX-License-Identifier: Apache-2.0
//! Makes the `SessionContext` of a session: functions and settings of the scheduler's base, a catalog of its own.
//!
//! Tables that the base has are there from the start. The default catalog and its default schema are copies, so what a
//! session creates or drops there is its own; other schemas and catalogs of the base are shared by all sessions.

use std::sync::Arc;

use ballista_client::{ClientConfigExt as _, Cluster, distributed_state, stores_for_another};
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
    let settings: Vec<_> = defaults.into_iter().chain(settings).collect();
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
    let state = distributed_state(stores_for_another(state), cluster);
    // Lets a query name a file in the place of a table.
    Ok(SessionContext::new_with_state(state).enable_url_table())
}

async fn own_catalogs(base: &SessionState) -> Result<Arc<dyn CatalogProviderList>> {
    let options = &base.config_options().catalog;
    let (default_catalog, default_schema) = (&options.default_catalog, &options.default_schema);
    let (catalog, schema) = (MemoryCatalogProvider::new(), MemorySchemaProvider::new());
    let list = MemoryCatalogProviderList::new();
    for name in base.catalog_list().catalog_names() {
        let Some(shared) = base.catalog_list().catalog(&name) else { continue };
        if &name != default_catalog {
            list.register_catalog(name, shared);
            continue;
        }
        for name in shared.schema_names() {
            let Some(shared) = shared.schema(&name) else { continue };
            if &name == default_schema {
                copy_tables(shared.as_ref(), &schema).await?;
            } else {
                catalog.register_schema(&name, shared)?;
            }
        }
    }
    catalog.register_schema(default_schema, Arc::new(schema))?;
    list.register_catalog(default_catalog.clone(), Arc::new(catalog));
    Ok(Arc::new(list))
}

async fn copy_tables(from: &dyn SchemaProvider, to: &dyn SchemaProvider) -> Result<()> {
    for name in from.table_names() {
        if let Some(table) = from.table(&name).await? {
            to.register_table(name, table)?;
        }
    }
    Ok(())
}
