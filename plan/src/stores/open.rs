// SPDX-License-Identifier: Apache-2.0
//! Opens a store. Nothing is sent before it is first used.

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::{ClientConfigKey, ObjectStore};
use url::{Position, Url};

use super::options::{Provider, StoreOptions};

/// Sets every option, and opens. Builders have no trait in common.
macro_rules! build {
    ($builder:expr, $options:expr) => {{
        let mut builder = $builder;
        for (key, value) in $options.iter() {
            let key = key.parse().map_err(|error| invalid_option(key, &error))?;
            builder = builder.with_config(key, value);
        }
        Arc::new(builder.build()?)
    }};
}

/// The store at `url`. What `options` leave open is taken from the environment: credentials only if `options` do not
/// name an endpoint, unless they are the word of this process (`own`).
pub(super) fn open(provider: Provider, url: &Url, options: &StoreOptions, own: bool) -> Result<Arc<dyn ObjectStore>> {
    let environment = !options.identify() && (own || !options.redirect());
    if !environment && !options.identify() && provider != Provider::Http {
        let prefix = provider.prefix();
        return Err(DataFusionError::Configuration(format!(
            "options of {} name an endpoint but no credentials; executors use their own at their own endpoint only. Give \
             credentials beside the endpoint, or {prefix}.skip_signature = 'true'",
            shown(url)
        )));
    }
    let text = shown(url);
    Ok(match provider {
        Provider::Aws if environment => build!(AmazonS3Builder::from_env().with_url(text), options),
        Provider::Aws => build!(AmazonS3Builder::new().with_url(text), options),
        Provider::Gcp => {
            // The builder knows one of the two names of the scheme.
            let text = text.replacen("gcs://", "gs://", 1);
            let builder =
                if environment { GoogleCloudStorageBuilder::from_env() } else { GoogleCloudStorageBuilder::new() };
            build!(builder.with_url(text), options)
        }
        Provider::Azure if environment => build!(MicrosoftAzureBuilder::from_env().with_url(text), options),
        Provider::Azure => build!(MicrosoftAzureBuilder::new().with_url(text), options),
        Provider::Http => {
            // Whoever writes `http://` has allowed it.
            let plain = if url.scheme() == "http" { "true" } else { "false" };
            build!(HttpBuilder::new().with_url(text).with_config(ClientConfigKey::AllowHttp, plain), options)
        }
    })
}

/// Scheme and authority, without a password.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Fails for URLs that cannot have one.
    let _ = url.set_password(None);
    url[..Position::BeforePath].to_owned()
}

fn invalid_option(key: &str, error: &object_store::Error) -> DataFusionError {
    DataFusionError::Configuration(format!("option {key} of an object store: {error}"))
}
