// SPDX-License-Identifier: Apache-2.0
//! Object stores of a session: options in statements open them, and the ones that a query touches travel with it.
//!
//! `CREATE EXTERNAL TABLE` passes through [`NamingFactory`] on its way to the table's own factory, `COPY` through
//! [`name_target`]. Both take the options of stores out, so that nothing after them sees, shows or refuses them.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ballista_plan::stores::options::{REDACTED, is_secret};
use ballista_plan::stores::settings::{add_to, stores_of};
use ballista_plan::stores::{Provider, StoreOptions, Stores};
use ballista_plan::write::WriteExec;
use ballista_proto as proto;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{CreateExternalTable, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use url::Url;

/// Gives a session a registry that opens stores by itself, with options from settings and statements. One that has it
/// stays as it is.
pub(crate) fn add_stores(state: SessionState) -> SessionState {
    if stores_of(state.config_options()).is_some() {
        return state;
    }
    let stores = Stores::new(Arc::clone(&state.runtime_env().object_store_registry));
    with_stores(state, Arc::new(stores))
}

/// The same for a session that this process runs for somebody else: what the process has in its environment goes to no
/// endpoint that the session names.
pub fn stores_for_another(state: SessionState) -> SessionState {
    let stores = Stores::for_another(Arc::clone(&state.runtime_env().object_store_registry));
    with_stores(state, Arc::new(stores))
}

fn with_stores(state: SessionState, stores: Arc<Stores>) -> SessionState {
    let session_id = state.session_id().to_owned();
    let mut config = state.config().clone();
    add_to(config.options_mut(), &stores);
    let runtime = RuntimeEnv { object_store_registry: stores, ..state.runtime_env().as_ref().clone() };
    let mut state = SessionStateBuilder::new_from_existing(state)
        .with_session_id(session_id)
        .with_runtime_env(Arc::new(runtime))
        .build();
    // What the builder was given would have it make a new default catalog.
    *state.config_mut() = config;
    for factory in state.table_factories_mut().values_mut() {
        *factory = Arc::new(NamingFactory { inner: Arc::clone(factory) });
    }
    state
}

/// Opens the stores of a new table's locations, then makes the table.
#[derive(Debug)]
struct NamingFactory {
    inner: Arc<dyn TableProviderFactory>,
}

#[async_trait]
impl TableProviderFactory for NamingFactory {
    async fn create(&self, session: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        let Some((stores, named, others)) = split(session.config_options(), &command.options)? else {
            return self.inner.create(session, command).await;
        };
        for location in &command.locations {
            name(stores, location, &named)?;
        }
        let definition = command.definition.clone().map(|text| redacted(text, &command.options));
        let command = CreateExternalTable { options: others, definition, ..command.clone() };
        self.inner.create(session, &command).await
    }
}

type Named = HashMap<Provider, StoreOptions>;

/// Options of stores, and the others; `None` if there are none of stores.
fn split<'a>(
    config: &'a ConfigOptions,
    options: &HashMap<String, String>,
) -> Result<Option<(&'a Arc<Stores>, Named, HashMap<String, String>)>> {
    let Some(stores) = stores_of(config) else { return Ok(None) };
    let (mut named, mut others) = (Named::new(), HashMap::new());
    for (key, value) in options {
        match Provider::of_option(key) {
            Some((provider, key)) => named.entry(provider).or_default().set(provider, &key, value)?,
            None => {
                others.insert(key.clone(), value.clone());
            }
        }
    }
    Ok((!named.is_empty()).then_some((stores, named, others)))
}

/// Opens the store of `location` with the options of its provider, if there are any.
fn name(stores: &Stores, location: &str, named: &Named) -> Result<()> {
    let location = ListingTableUrl::parse(location)?.object_store();
    let url: &Url = location.as_ref();
    match Provider::of(url).and_then(|provider| named.get(&provider)) {
        Some(options) => stores.name(url, options),
        None => Ok(()),
    }
}

/// A `COPY`, explained or not, whose target's store is open and whose options are of its format only; `None` for
/// everything else.
pub(crate) fn name_target(logical: &LogicalPlan, config: &ConfigOptions) -> Result<Option<LogicalPlan>> {
    Ok(match logical {
        LogicalPlan::Copy(copy) => {
            let Some((stores, named, others)) = split(config, &copy.options)? else { return Ok(None) };
            name(stores, &copy.output_url, &named)?;
            let mut copy = copy.clone();
            copy.options = others;
            Some(LogicalPlan::Copy(copy))
        }
        LogicalPlan::Explain(explain) => name_target(&explain.plan, config)?.map(|plan| {
            let mut explain = explain.clone();
            if let LogicalPlan::Copy(copy) = explain.plan.as_ref() {
                for row in &mut explain.stringified_plans {
                    row.plan = Arc::new(redacted(row.plan.to_string(), &copy.options));
                }
            }
            explain.plan = Arc::new(plan);
            LogicalPlan::Explain(explain)
        }),
        LogicalPlan::Analyze(analyze) => name_target(&analyze.input, config)?.map(|input| {
            let mut analyze = analyze.clone();
            analyze.input = Arc::new(input);
            LogicalPlan::Analyze(analyze)
        }),
        _ => None,
    })
}

/// `text` without the secrets among `options`.
fn redacted(mut text: String, options: &HashMap<String, String>) -> String {
    for (key, value) in options {
        if Provider::of_option(key).is_some_and(|(_, key)| is_secret(&key)) && !value.is_empty() {
            text = text.replace(value.as_str(), REDACTED);
        }
    }
    text
}

/// The stores that `plan` reads or writes, as far as executors must be told how to open them.
pub(crate) fn stores_in(plan: &Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Vec<proto::ObjectStore> {
    let Some(stores) = stores_of(config) else { return vec![] };
    let mut found = HashMap::new();
    visit(plan, &mut |url| {
        if let Some(options) = stores.options_of(url) {
            let options = options.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            found.insert(url.as_str().to_owned(), options);
        }
    });
    found.into_iter().map(|(url, options)| proto::ObjectStore { url, options }).collect()
}

fn visit(plan: &Arc<dyn ExecutionPlan>, see: &mut impl FnMut(&Url)) {
    let source = plan.downcast_ref::<DataSourceExec>().map(|scan| scan.data_source().as_ref() as &dyn Any);
    if let Some(scan) = source.and_then(|source| source.downcast_ref::<FileScanConfig>()) {
        see(scan.object_store_url.as_ref());
    }
    if let Some(write) = plan.downcast_ref::<WriteExec>().and_then(|write| write.target()) {
        see(write);
    }
    plan.children().into_iter().for_each(|child| visit(child, see));
}
