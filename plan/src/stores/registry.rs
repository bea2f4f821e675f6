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
    /// Options of single stores, which go before them.
    named: HashMap<String, StoreOptions>,
    opened: HashMap<String, Arc<dyn ObjectStore>>,
}

impl State {
    fn options(&self, provider: Provider, key: &str) -> StoreOptions {
        let defaults = self.defaults.get(&provider).cloned().unwrap_or_default();
        match self.named.get(key) {
            Some(named) => defaults.overlaid(provider, named),
            None => defaults,
        }
    }
}

/// Gives a store the options back that it had, unless they are [kept](Self::keep).
#[must_use]
#[derive(Debug)]
pub struct Named<'a> {
    stores: &'a Stores,
    key: String,
    before: Option<StoreOptions>,
    kept: bool,
}

impl Named<'_> {
    /// The options stay.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut state = self.stores.state.lock();
        match self.before.take() {
            Some(before) => state.named.insert(self.key.clone(), before),
            None => state.named.remove(&self.key),
        };
        state.opened.remove(&self.key);
    }
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
            registry.name(&url, &options)?.keep();
        }
        Ok(registry)
    }

    /// Sets an option of the session for the stores of a provider, which are opened anew.
    pub fn set(&self, provider: Provider, key: &str, value: &str) -> Result<()> {
        let mut state = self.state.lock();
        state.defaults.entry(provider).or_default().set(provider, key, value)?;
        state.opened.retain(|url, _| Url::parse(url).is_ok_and(|url| Provider::of(&url) != Some(provider)));
        Ok(())
    }

    /// The session's options for the stores of a provider.
    pub fn settings(&self, provider: Provider) -> StoreOptions {
        self.state.lock().defaults.get(&provider).cloned().unwrap_or_default()
    }

    /// Opens the store at `url` with `options`, beside those of the session, for as long as the returned value lives or
    /// for good.
    pub fn name(&self, url: &Url, options: &StoreOptions) -> Result<Named<'_>> {
        let provider = Provider::of(url).ok_or_else(|| {
            DataFusionError::Configuration(format!("options of an object store for {}, which is none", shown(url)))
        })?;
        let all = self.settings(provider).overlaid(provider, options);
        let store = open(provider, url, &all, self.own)?;
        let key = shown(url);
        let mut state = self.state.lock();
        let before = state.named.insert(key.clone(), options.clone());
        state.opened.insert(key.clone(), store);
        Ok(Named { stores: self, key, before, kept: false })
    }

    /// What an executor has to know to open the store at `url` as it is opened here; `None` if that is nothing, or the
    /// store is not this registry's.
    pub fn options_of(&self, url: &Url) -> Option<StoreOptions> {
        let provider = Provider::of(url)?;
        let key = shown(url);
        let (options, is_named) = {
            let state = self.state.lock();
            (state.options(provider, &key), state.named.contains_key(&key))
        };
        let is_ours = is_named || self.below.get_store(url).is_err();
        (is_ours && !options.is_empty()).then_some(options)
    }
}

impl Stores {
    fn forget(&self, url: &Url) -> Option<Arc<dyn ObjectStore>> {
        let key = shown(url);
        let mut state = self.state.lock();
        state.named.remove(&key);
        state.opened.remove(&key)
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
        let opened = self.forget(url);
        self.below.register_store(url, store).or(opened)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.forget(url).map_or_else(|| self.below.deregister_store(url), Ok)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let key = shown(url);
        let is_named = {
            let state = self.state.lock();
            if let Some(opened) = state.opened.get(&key) {
                return Ok(Arc::clone(opened));
            }
            state.named.contains_key(&key)
        };
        if !is_named {
            match self.below.get_store(url) {
                Ok(store) => return Ok(store),
                Err(missing) if url.scheme() == "file" => return Err(missing),
                Err(_) => {}
            }
        }
        let provider = Provider::of(url).ok_or_else(|| unknown_scheme(url))?;
        let options = self.state.lock().options(provider, &key);
        let store = open(provider, url, &options, self.own)?;
        self.state.lock().opened.insert(key, Arc::clone(&store));
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

    fn value(stores: &Stores, store: &str, key: &str) -> Option<String> {
        let options = stores.options_of(&url(store))?;
        options.iter().find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    }

    #[test]
    fn options_of_a_statement_win_over_the_sessions() {
        let stores = Stores::default();
        stores.set(Provider::Aws, "region", "eu-west-1").unwrap();
        stores.set(Provider::Aws, "endpoint", "http://127.0.0.1:9").unwrap();
        stores.name(&url("s3://a/x"), &options(&[("region", "us-east-2")])).unwrap().keep();
        assert_eq!(value(&stores, "s3://a", "region").unwrap(), "us-east-2");
        assert_eq!(value(&stores, "s3://b/y", "region").unwrap(), "eu-west-1");
        assert!(stores.options_of(&url("gs://a")).is_none());
        assert!(stores.options_of(&url("file:///a")).is_none());
        // What the statement left open follows the session.
        stores.set(Provider::Aws, "endpoint", "http://127.0.0.1:10").unwrap();
        assert_eq!(value(&stores, "s3://a", "endpoint").unwrap(), "http://127.0.0.1:10");
    }

    #[test]
    fn options_that_are_not_kept_are_gone() {
        let stores = Stores::default();
        stores.name(&url("s3://a"), &options(&[("region", "us-east-2")])).unwrap().keep();
        let before = stores.get_store(&url("s3://a")).unwrap();
        drop(stores.name(&url("s3://a"), &options(&[("region", "us-east-1")])).unwrap());
        assert_eq!(value(&stores, "s3://a", "region").unwrap(), "us-east-2");
        assert_eq!(before.to_string(), stores.get_store(&url("s3://a")).unwrap().to_string());
        drop(stores.name(&url("s3://b"), &options(&[("region", "us-east-1")])).unwrap());
        assert!(stores.options_of(&url("s3://b")).is_none());
    }

    #[test]
    fn every_provider_opens() {
        let stores = Stores::for_another(Arc::new(DefaultObjectStoreRegistry::new()));
        for (store, pairs, shown) in [
            ("gs://b", vec![("skip_signature", "true")], "GoogleCloudStorage(b)"),
            ("gcs://b", vec![("skip_signature", "true")], "GoogleCloudStorage(b)"),
            ("az://c", vec![("account_name", "a"), ("account_key", "a2V5")], "MicrosoftAzure"),
            ("abfss://c@a.dfs.core.windows.net", vec![("account_key", "a2V5")], "MicrosoftAzure"),
            ("s3://b", vec![("skip_signature", "true")], "AmazonS3(b)"),
            ("https://host:8443", vec![("timeout", "5s")], "HttpStore"),
        ] {
            stores.name(&url(store), &options(&pairs)).unwrap_or_else(|error| panic!("{store}: {error}")).keep();
            let opened = stores.get_store(&url(store)).unwrap().to_string();
            assert!(opened.contains(shown), "{store}: {opened}");
        }
        let error = stores.name(&url("az://c"), &options(&[("skip_signature", "true")])).unwrap_err();
        assert!(matches!(error, DataFusionError::Configuration(_)), "{error:?}");
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
        assert!(error.contains("without complete credentials"), "{error}");
        let anonymous = elsewhere.overlaid(Provider::Aws, &options(&[("skip_signature", "true")]));
        assert!(Stores::of_job(below(), [("s3://a".to_owned(), anonymous)]).is_ok());
        Stores::default().name(&url("s3://a"), &elsewhere).unwrap().keep();
    }

    #[test]
    fn containers_of_one_account_are_different_stores_and_passwords_are_not_shown() {
        assert_eq!(shown(&url("abfss://c:p@account.dfs.core.windows.net/x")), "abfss://c@account.dfs.core.windows.net");
        let error = Stores::default().get_store(&url("http://u:hush@host/x")).unwrap_err().to_string();
        assert!(error.contains("not supported") && !error.contains("hush"), "{error}");
        let error = Stores::default().get_store(&url("ftp://u:hush@host/x")).unwrap_err().to_string();
        assert!(error.contains("ftp://u@host") && !error.contains("hush"), "{error}");
    }
}
