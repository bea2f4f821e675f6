// SPDX-License-Identifier: Apache-2.0
//! `SET aws.region = '…'`: options of object stores as settings of a session.
//!
//! The settings are views of the session's [`Stores`], which must know them when it opens a store and is not given a
//! session then. So, unlike other settings, they are shared by the copies of a session's configuration.

use std::any::Any;
use std::sync::Arc;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;

use super::options::Provider;
use super::registry::Stores;

macro_rules! namespace {
    ($name:ident, $prefix:literal, $provider:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone)]
        pub struct $name(Arc<Stores>);

        impl ConfigExtension for $name {
            const PREFIX: &'static str = $prefix;
        }

        impl ExtensionOptions for $name {
            fn as_any(&self) -> &dyn Any {
                self
            }

            fn as_any_mut(&mut self) -> &mut dyn Any {
                self
            }

            fn cloned(&self) -> Box<dyn ExtensionOptions> {
                Box::new(self.clone())
            }

            fn set(&mut self, key: &str, value: &str) -> Result<()> {
                self.0.set($provider, key, value)
            }

            fn entries(&self) -> Vec<ConfigEntry> {
                entries(&self.0, $provider)
            }
        }
    };
}

namespace!(AwsSettings, "aws", Provider::Aws, "The namespace `aws`.");
namespace!(GcpSettings, "gcp", Provider::Gcp, "The namespace `gcp`.");
namespace!(AzureSettings, "azure", Provider::Azure, "The namespace `azure`.");
namespace!(HttpSettings, "http", Provider::Http, "The namespace `http`.");

/// Only what was set, secrets hidden.
fn entries(stores: &Stores, provider: Provider) -> Vec<ConfigEntry> {
    let options = stores.settings(provider);
    let entry = |(key, value): (&str, String)| ConfigEntry {
        key: format!("{}.{key}", provider.prefix()),
        value: Some(value),
        description: "Option of object stores",
    };
    options.shown().map(entry).collect()
}

/// Makes the options of `stores` settings of `config`.
pub fn add_to(config: &mut ConfigOptions, stores: &Arc<Stores>) {
    config.extensions.insert(AwsSettings(Arc::clone(stores)));
    config.extensions.insert(GcpSettings(Arc::clone(stores)));
    config.extensions.insert(AzureSettings(Arc::clone(stores)));
    config.extensions.insert(HttpSettings(Arc::clone(stores)));
}

/// The stores whose options are settings of `config`.
pub fn stores_of(config: &ConfigOptions) -> Option<&Arc<Stores>> {
    config.extensions.get::<AwsSettings>().map(|settings| &settings.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_the_stores_options_and_secrets_are_hidden() {
        let stores = Arc::new(Stores::default());
        let mut config = ConfigOptions::default();
        add_to(&mut config, &stores);
        config.set("aws.region", "eu-west-1").unwrap();
        config.set("aws.secret_access_key", "hush").unwrap();
        assert!(config.set("azure.regoin", "x").unwrap_err().to_string().contains("azure.regoin"));
        let value = |name: &str| config.entries().into_iter().find(|entry| entry.key == name).unwrap().value;
        assert_eq!(value("aws.region").as_deref(), Some("eu-west-1"));
        assert_eq!(value("aws.secret_access_key").as_deref(), Some("***"));
        assert!(!format!("{config:?}").contains("hush"));
        assert!(Arc::ptr_eq(stores_of(&config).unwrap(), &stores));
    }
}
