// SPDX-License-Identifier: Apache-2.0
//! Object stores of a session: options in statements open them, and the ones that a query touches travel with it.
//!
//! `CREATE EXTERNAL TABLE` passes through [`NamingFactory`] on its way to the table's own factory, `COPY` through
//! [`target_of`]. Both take the options of stores out, so that nothing after them sees, shows or refuses them. Those of a
//! `COPY` are its own; those of a table stay with its store once the table is there.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
pub use ballista_plan::stores::options::{QUIET_LOGS, seems_secret};
use ballista_plan::stores::options::{REDACTED, is_secret};
use ballista_plan::stores::registry::Named;
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
use datafusion::execution::cache::cache_manager::{CacheManager, CacheManagerConfig};
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
    let runtime = state.runtime_env().as_ref().clone();
    with_stores(state, runtime, Arc::new(stores))
}

/// The same for a session that this process runs for somebody else: what the process has of its own goes to nobody that
/// the session names. The session has caches of its own as well: those of listings know no credentials.
pub fn stores_for_another(state: SessionState) -> Result<SessionState> {
    let stores = Stores::for_another(Arc::clone(&state.runtime_env().object_store_registry));
    let cache_manager = CacheManager::try_new(&CacheManagerConfig::default())?;
    let runtime = RuntimeEnv { cache_manager, ..state.runtime_env().as_ref().clone() };
    Ok(with_stores(state, runtime, Arc::new(stores)))
}

fn with_stores(state: SessionState, runtime: RuntimeEnv, stores: Arc<Stores>) -> SessionState {
    let session_id = state.session_id().to_owned();
    let mut config = state.config().clone();
    add_to(config.options_mut(), &stores);
    let runtime = RuntimeEnv { object_store_registry: stores, ..runtime };
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
        let Some(Split { stores, of_stores, others }) = split(session.config_options(), &command.options)? else {
            return self.inner.create(session, command).await;
        };
        let named = command.locations.iter().map(|location| name(stores, location, &of_stores));
        let named = named.collect::<Result<Vec<_>>>()?;
        let definition = command.definition.clone().map(|text| redacted(text, &command.options));
        let command = CreateExternalTable { options: others, definition, ..command.clone() };
        let table = self.inner.create(session, &command).await?;
        named.into_iter().flatten().for_each(Named::keep);
        Ok(table)
    }
}

type Options = HashMap<Provider, StoreOptions>;

/// Options of a statement, those of stores apart.
struct Split<'a> {
    stores: &'a Stores,
    of_stores: Options,
    others: HashMap<String, String>,
}

/// Divides `options`; `None` if there are none of stores.
fn split<'a>(config: &'a ConfigOptions, options: &HashMap<String, String>) -> Result<Option<Split<'a>>> {
    let Some(stores) = stores_of(config).map(AsRef::as_ref) else { return Ok(None) };
    let (mut of_stores, mut others) = (Options::new(), HashMap::new());
    for (key, value) in options {
        match Provider::of_option(key) {
            Some((provider, key)) => of_stores.entry(provider).or_default().set(provider, key, value)?,
            None => {
                others.insert(key.clone(), value.clone());
            }
        }
    }
    Ok((!of_stores.is_empty()).then_some(Split { stores, of_stores, others }))
}

/// Opens the store of `location` with the options of its provider, if there are any.
fn name<'a>(stores: &'a Stores, location: &str, options: &Options) -> Result<Option<Named<'a>>> {
    let location = ListingTableUrl::parse(location)?.object_store();
    let url: &Url = location.as_ref();
    let options = Provider::of(url).and_then(|provider| options.get(&provider));
    options.map(|options| stores.name(url, options)).transpose()
}

/// A `COPY` whose options are of its format only.
pub(crate) struct Target<'a> {
    pub(crate) plan: LogicalPlan,
    /// Its store, open for as long as this is not dropped.
    pub(crate) store: Option<Named<'a>>,
}

/// The target of a `COPY`, explained or not, that has options of a store; `None` for everything else.
pub(crate) fn target_of<'a>(logical: &LogicalPlan, config: &'a ConfigOptions) -> Result<Option<Target<'a>>> {
    Ok(match logical {
        LogicalPlan::Copy(copy) => {
            let Some(Split { stores, of_stores, others }) = split(config, &copy.options)? else { return Ok(None) };
            let store = name(stores, &copy.output_url, &of_stores)?;
            let mut copy = copy.clone();
            copy.options = others;
            Some(Target { plan: LogicalPlan::Copy(copy), store })
        }
        LogicalPlan::Explain(explain) => target_of(&explain.plan, config)?.map(|Target { plan, store }| {
            let mut explain = explain.clone();
            if let LogicalPlan::Copy(copy) = explain.plan.as_ref() {
                for row in &mut explain.stringified_plans {
                    row.plan = Arc::new(redacted(row.plan.to_string(), &copy.options));
                }
            }
            explain.plan = Arc::new(plan);
            Target { plan: LogicalPlan::Explain(explain), store }
        }),
        LogicalPlan::Analyze(analyze) => target_of(&analyze.input, config)?.map(|Target { plan, store }| {
            let mut analyze = analyze.clone();
            analyze.input = Arc::new(plan);
            Target { plan: LogicalPlan::Analyze(analyze), store }
        }),
        _ => None,
    })
}

/// Whether a setting is an option of object stores, such as `aws.region`.
pub fn is_store_option(key: &str) -> bool {
    Provider::of_option(key).is_some()
}

/// `text` without the secrets among `options`.
fn redacted(mut text: String, options: &HashMap<String, String>) -> String {
    for (key, value) in options {
        if Provider::of_option(key).is_some_and(|(_, key)| is_secret(key)) && !value.is_empty() {
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
