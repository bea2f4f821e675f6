// SPDX-License-Identifier: Apache-2.0
//! Opens a store. Nothing is sent before it is first used.

use std::fmt::Display;
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
    ($builder:expr, $provider:expr, $url:expr, $options:expr) => {{
        let mut builder = $builder;
        for (key, value) in $options.iter() {
            let parsed = $provider.parse(key).ok_or_else(|| cannot_open($url, &format!("no option {key}")))?;
            builder = builder.with_config(parsed, value);
        }
        Arc::new(builder.build().map_err(|error| cannot_open($url, &error))?)
    }};
}

/// The store at `url`. What `options` leave open is taken from the environment, if they are the word of this process
/// (`own`), or change neither who asks nor whom.
pub(super) fn open(provider: Provider, url: &Url, options: &StoreOptions, own: bool) -> Result<Arc<dyn ObjectStore>> {
    let alone = !own && options.stand_alone(provider)?;
    let options = match alone {
        true => options.clone(),
        false => StoreOptions::from_environment(provider).overlaid(provider, options),
    };
    let text = shown(url);
    Ok(match provider {
        Provider::Aws => build!(AmazonS3Builder::new().with_url(text), provider, url, options),
        Provider::Gcp => {
            // The builder knows one of the two names of the scheme.
            let text = text.replacen("gcs://", "gs://", 1);
            build!(GoogleCloudStorageBuilder::new().with_url(text), provider, url, options)
        }
        Provider::Azure => build!(MicrosoftAzureBuilder::new().with_url(text), provider, url, options),
        Provider::Http if !url.username().is_empty() || url.password().is_some() => {
            return Err(cannot_open(url, &"users and passwords in URLs are not supported"));
        }
        Provider::Http => {
            // Whoever writes `http://` has allowed it.
            let plain = if url.scheme() == "http" { "true" } else { "false" };
            let builder = HttpBuilder::new().with_url(text).with_config(ClientConfigKey::AllowHttp, plain);
            build!(builder, provider, url, options)
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

fn cannot_open(url: &Url, reason: &dyn Display) -> DataFusionError {
    DataFusionError::Configuration(format!("the object store {} cannot be opened: {reason}", shown(url)))
}
