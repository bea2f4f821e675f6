// SPDX-License-Identifier: Apache-2.0
//! [`Stores`]: finds object stores by URL, and opens those that nobody has registered.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use object_store::ObjectStore;
use parking_lot::Mutex;
use url::Url;

use super::open::{open, shown};
use super::options::{Provider, StoreOptions};

/// A registry over another one. A store is, in this order: one that was opened with options of its own, one of the
/// registry below, or one opened with the session's options.
pub struct Stores {
    below: Arc<dyn ObjectStoreRegistry>,
    state: Mutex<State>,
    /// Options were given by whoever runs this process.
    own: bool,
}

#[derive(Default)]
struct State {
    /// The session's options.
    defaults: BTreeMap<Provider, StoreOptions>,
    opened: HashMap<String, Opened>,
}

struct Opened {
    store: Arc<dyn ObjectStore>,
    options: StoreOptions,
    /// Opened with options of its own, beside those of the session.
    named: bool,
}

impl Stores {
    /// A session's, over `below`.
    pub fn new(below: Arc<dyn ObjectStoreRegistry>) -> Self {
        Self { below, state: Mutex::default(), own: true }
    }

    /// The same for a session that this process runs for somebody else, who gives the options.
    pub fn for_another(below: Arc<dyn ObjectStoreRegistry>) -> Self {
        Self { own: false, ..Self::new(below) }
    }

    /// Those of a job over an executor's: `stores` by URL, with all their options.
    pub fn of_job(
        below: Arc<dyn ObjectStoreRegistry>,
        stores: impl IntoIterator<Item = (String, StoreOptions)>,
    ) -> Result<Self> {
        let registry = Self::for_another(below);
        for (url, options) in stores {
            let url = Url::parse(&url)
                .map_err(|error| DataFusionError::Configuration(format!("the URL of an object store: {error}")))?;
            registry.name(&url, &options)?;
        }
        Ok(registry)
    }

    /// Sets an option of the session for the stores of a provider. Stores that were opened with the session's options
    /// are opened anew.
    pub fn set(&self, provider: Provider, key: &str, value: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.defaults.entry(provider).or_default().set(provider, key, value)?;
        state.opened.retain(|url, opened| {
            opened.named || Url::parse(url).is_ok_and(|url| Provider::of(&url) != Some(provider))
        });
        Ok(())
    }

    /// The session's options for the stores of a provider.
    pub fn settings(&self, provider: Provider) -> StoreOptions {
        self.state.lock().defaults.get(&provider).cloned().unwrap_or_default()
    }

    /// Opens the store at `url` with `options`, beside those of the session. It replaces one that was there.
    pub fn name(&self, url: &Url, options: &StoreOptions) -> Result<()> {
        let provider = Provider::of(url).ok_or_else(|| {
            DataFusionError::Configuration(format!("options of an object store for {}, which is none", shown(url)))
        })?;
        let options = self.settings(provider).overlaid(options);
        let store = open(provider, url, &options, self.own)?;
        self.state.lock().opened.insert(shown(url), Opened { store, options, named: true });
        Ok(())
    }

    /// What an executor has to know to open the store at `url` as it is opened here; `None` if that is nothing, or the
    /// store is not this registry's.
    pub fn options_of(&self, url: &Url) -> Option<StoreOptions> {
        let provider = Provider::of(url)?;
        let state = self.state.lock();
        let options = match state.opened.get(&shown(url)) {
            Some(opened) => opened.options.clone(),
            None if self.below.get_store(url).is_ok() => return None,
            None => state.defaults.get(&provider)?.clone(),
        };
        (!options.is_empty()).then_some(options)
    }
}

impl Default for Stores {
    /// Over DataFusion's registry, which knows local files.
    fn default() -> Self {
        Self::new(Arc::new(DefaultObjectStoreRegistry::new()))
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Stores").field("opened", &state.opened.keys()).field("below", &self.below).finish()
    }
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let opened = self.state.lock().opened.remove(&shown(url)).map(|opened| opened.store);
        self.below.register_store(url, store).or(opened)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match self.state.lock().opened.remove(&shown(url)) {
            Some(opened) => Ok(opened.store),
            None => self.below.deregister_store(url),
        }
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let key = shown(url);
        if let Some(opened) = self.state.lock().opened.get(&key) {
            return Ok(Arc::clone(&opened.store));
        }
        let missing = match self.below.get_store(url) {
            Ok(store) => return Ok(store),
            Err(error) => error,
        };
        let Some(provider) = Provider::of(url) else {
            return Err(if url.scheme() == "file" { missing } else { unknown_scheme(url) });
        };
        let options = self.settings(provider);
        let store = open(provider, url, &options, self.own)?;
        let opened = Opened { store: Arc::clone(&store), options, named: false };
        self.state.lock().opened.insert(key, opened);
        Ok(store)
    }
}

fn unknown_scheme(url: &Url) -> DataFusionError {
    DataFusionError::Configuration(format!(
        "no object store for {}: the schemes s3, gs, az, abfss, http, https and file are known; others are registered by \
         the application, with the client and with every executor",
        shown(url)
    ))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn options(pairs: &[(&str, &str)]) -> StoreOptions {
        StoreOptions::from_wire(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn options_of_a_statement_win_over_the_sessions() {
        let stores = Stores::default();
        stores.set(Provider::Aws, "region", "eu-west-1").unwrap();
        stores.set(Provider::Aws, "endpoint", "http://127.0.0.1:9").unwrap();
        stores.name(&url("s3://a/x"), &options(&[("region", "us-east-2")])).unwrap();
        let region = |text| {
            let options = stores.options_of(&url(text)).unwrap();
            options.iter().find(|(key, _)| *key == "region").unwrap().1.to_owned()
        };
        assert_eq!(region("s3://a"), "us-east-2");
        assert_eq!(region("s3://b/y"), "eu-west-1");
        assert!(stores.options_of(&url("gs://a")).is_none());
        assert!(stores.options_of(&url("file:///a")).is_none());
    }

    #[test]
    fn a_store_of_the_application_needs_no_options() {
        let stores = Stores::default();
        stores.set(Provider::Aws, "region", "eu-west-1").unwrap();
        stores.register_store(&url("s3://mine"), Arc::new(InMemory::new()));
        assert!(stores.options_of(&url("s3://mine/x")).is_none());
        assert_eq!(stores.get_store(&url("s3://mine/x")).unwrap().to_string(), "InMemory");
    }

    #[test]
    fn a_setting_opens_stores_anew() {
        let stores = Stores::default();
        stores.set(Provider::Aws, "skip_signature", "true").unwrap();
        let first = stores.get_store(&url("s3://a")).unwrap();
        assert!(Arc::ptr_eq(&first, &stores.get_store(&url("s3://a/b")).unwrap()));
        stores.set(Provider::Aws, "region", "eu-west-1").unwrap();
        assert!(!Arc::ptr_eq(&first, &stores.get_store(&url("s3://a")).unwrap()));
    }

    #[test]
    fn an_executor_sends_its_own_credentials_nowhere_else() {
        let below = || Arc::new(DefaultObjectStoreRegistry::new());
        let elsewhere = options(&[("endpoint", "http://127.0.0.1:9"), ("allow_http", "true")]);
        let error = Stores::of_job(below(), [("s3://a".to_owned(), elsewhere.clone())]).unwrap_err().to_string();
        assert!(error.contains("no credentials"), "{error}");
        let anonymous = elsewhere.overlaid(&options(&[("skip_signature", "true")]));
        assert!(Stores::of_job(below(), [("s3://a".to_owned(), anonymous)]).is_ok());
        assert!(Stores::default().name(&url("s3://a"), &elsewhere).is_ok());
    }

    #[test]
    fn containers_of_one_account_are_different_stores_and_passwords_are_not_shown() {
        assert_eq!(shown(&url("abfss://c:p@account.dfs.core.windows.net/x")), "abfss://c@account.dfs.core.windows.net");
        let error = Stores::default().get_store(&url("ftp://u:hush@host/x")).unwrap_err().to_string();
        assert!(error.contains("ftp://u@host") && !error.contains("hush"), "{error}");
    }
}
