// SPDX-License-Identifier: Apache-2.0
//! `ballista.*` settings as an extension of DataFusion's `SessionConfig`, and settings in text form.
//!
//! [`BallistaOptions`] holds a [`BallistaConfig`] under the prefix `ballista`, so that `SET ballista.… = …`, `SHOW` and
//! `information_schema.df_settings` work on it. Settings travel with a job as text: every `ballista.*` key and every
//! `datafusion.*` key that differs from DataFusion's default.

use std::any::Any;
use std::collections::HashMap;
use std::sync::LazyLock;

use ballista_core::BallistaConfig;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::config::SessionConfig;

const PREFIX: &str = "ballista";

/// The `ballista.*` part of a session's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BallistaOptions(pub BallistaConfig);

impl ConfigExtension for BallistaOptions {
    const PREFIX: &'static str = PREFIX;
}

impl ExtensionOptions for BallistaOptions {
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
        self.0.set(&format!("{PREFIX}.{key}"), value).map_err(|error| DataFusionError::Configuration(error.to_string()))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let entry = |entry: ballista_core::config::ConfigEntry| ConfigEntry {
            key: entry.key.to_owned(),
            value: Some(entry.value),
            description: entry.doc,
        };
        self.0.entries().into_iter().map(entry).collect()
    }
}

/// Typed access to the `ballista.*` settings of a DataFusion configuration.
pub trait SessionConfigExt: Sized {
    /// Adds the `ballista.*` keys with their defaults, unless they are there already.
    fn with_ballista(self) -> Self;
    /// Replaces the `ballista.*` settings.
    fn with_ballista_config(self, config: BallistaConfig) -> Self;
    /// The `ballista.*` settings; defaults if the session has none.
    fn ballista(&self) -> BallistaConfig;
}

impl SessionConfigExt for SessionConfig {
    fn with_ballista(self) -> Self {
        if self.options().extensions.get::<BallistaOptions>().is_some() {
            self
        } else {
            self.with_option_extension(BallistaOptions::default())
        }
    }

    fn with_ballista_config(self, config: BallistaConfig) -> Self {
        self.with_option_extension(BallistaOptions(config))
    }

    fn ballista(&self) -> BallistaConfig {
        ballista_config(self.options())
    }
}

/// The `ballista.*` settings of `options`; defaults if there are none.
pub fn ballista_config(options: &ConfigOptions) -> BallistaConfig {
    options.extensions.get::<BallistaOptions>().map(|options| options.0.clone()).unwrap_or_default()
}

/// DataFusion's own defaults, which depend on the host's number of cores and so are computed here, once.
static DEFAULTS: LazyLock<HashMap<String, Option<String>>> = LazyLock::new(|| {
    let options = ConfigOptions::default();
    options.entries().into_iter().map(|entry| (entry.key, entry.value)).collect()
});

/// Keys that mean the host they were set on, and so do not travel.
const LOCAL_KEYS: [&str; 2] = ["datafusion.execution.target_partitions", "datafusion.execution.planning_concurrency"];

/// What differs from the defaults, as text, to be sent along with a job.
pub fn settings_of(config: &SessionConfig) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    for entry in config.options().entries() {
        let Some(value) = entry.value else { continue };
        let is_default = DEFAULTS.get(&entry.key).is_some_and(|default| default.as_deref() == Some(value.as_str()));
        let travels = entry.key.starts_with("datafusion.") && !LOCAL_KEYS.contains(&entry.key.as_str());
        if travels && !is_default {
            settings.push((entry.key, value));
        }
    }
    let defaults = BallistaConfig::default().entries();
    for (entry, default) in config.ballista().entries().into_iter().zip(defaults) {
        if entry.value != default.value {
            settings.push((entry.key.to_owned(), entry.value));
        }
    }
    settings
}

/// A configuration with `settings` applied over `base`. An error names the setting.
pub fn with_settings<'a>(
    base: SessionConfig,
    settings: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<SessionConfig> {
    let mut config = base.with_ballista();
    for (key, value) in settings {
        config.options_mut().set(key, value).map_err(|error| match error.find_root() {
            DataFusionError::Configuration(text) if text.contains(key) => DataFusionError::Configuration(text.clone()),
            DataFusionError::Configuration(text) => DataFusionError::Configuration(format!("{key}: {text}")),
            _ => error,
        })?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_from_the_defaults_travels() {
        let mut config = SessionConfig::new().with_ballista();
        assert_eq!(settings_of(&config), vec![]);
        config.options_mut().set("ballista.shuffle.memory_tier", "false").unwrap();
        config.options_mut().set("datafusion.execution.batch_size", "1000").unwrap();
        config.options_mut().set("datafusion.execution.target_partitions", "77").unwrap();
        let settings = settings_of(&config);
        assert_eq!(settings.len(), 2, "{settings:?}");
        let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let received = with_settings(SessionConfig::new(), pairs).unwrap();
        assert!(!received.ballista().memory_tier);
        assert_eq!(received.batch_size(), 1000);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let mut config = SessionConfig::new().with_ballista();
        let error = config.options_mut().set("ballista.no.such", "1").unwrap_err();
        assert!(error.to_string().contains("ballista.no.such"), "{error}");
        for key in ["ballista.no.such", "datafusion.no.such", "no_such"] {
            let error = with_settings(SessionConfig::new(), [(key, "1")]).unwrap_err();
            assert!(matches!(&error, DataFusionError::Configuration(text) if text.contains(key)), "{error:?}");
        }
    }
}
