// SPDX-License-Identifier: Apache-2.0
//! What can be said about an object store, and which of it is secret.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use datafusion::error::{DataFusionError, Result};
use object_store::ClientConfigKey;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
use url::Url;

/// What is shown instead of a secret.
pub const REDACTED: &str = "***";

/// Parts of the names of options whose values are secret.
const SECRET: [&str; 8] = ["key", "secret", "token", "sas", "credential", "password", "assertion", "authorization"];

/// Options whose names look secret but that only say where a secret is, or how to use it.
const NOT_SECRET: [&str; 7] = [
    "token_file",
    "credentials_full_uri",
    "credentials_relative_uri",
    "bucket_key",
    "application_credentials",
    "kms_key",
    "skip_signature",
];

/// Parts of the names of options that say who asks.
const IDENTITY: [&str; 16] = [
    "access_key",
    "secret",
    "token",
    "sas",
    "service_account",
    "credential",
    "skip_signature",
    "account_key",
    "client_id",
    "role_arn",
    "master_key",
    "use_azure_cli",
    "authority_id",
    "msi",
    "identity",
    "tenant_id",
];

/// Who runs an object store; also the first part of the names of its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// Amazon S3 and everything that speaks its protocol: `s3://`, `s3a://`.
    Aws,
    /// Google Cloud Storage: `gs://`, `gcs://`.
    Gcp,
    /// Azure Blob Storage: `az://`, `azure://`, `adl://`, `abfs://`, `abfss://`.
    Azure,
    /// A web server: `http://`, `https://`.
    Http,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Aws, Self::Gcp, Self::Azure, Self::Http];

    /// Of the store at `url`; `None` for files and for schemes of the application.
    pub fn of(url: &Url) -> Option<Self> {
        match url.scheme() {
            "s3" | "s3a" => Some(Self::Aws),
            "gs" | "gcs" => Some(Self::Gcp),
            "az" | "azure" | "adl" | "abfs" | "abfss" => Some(Self::Azure),
            "http" | "https" => Some(Self::Http),
            _ => None,
        }
    }

    /// The first part of the names of its options.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
            Self::Http => "http",
        }
    }

    /// The provider and the rest of the name of an option such as `aws.region`, in lower case.
    pub fn of_option(name: &str) -> Option<(Self, String)> {
        let (prefix, key) = name.split_once('.')?;
        let provider = Self::ALL.into_iter().find(|provider| prefix.eq_ignore_ascii_case(provider.prefix()))?;
        Some((provider, key.to_ascii_lowercase()))
    }

    fn knows(self, key: &str) -> bool {
        match self {
            Self::Aws => AmazonS3ConfigKey::from_str(key).is_ok(),
            Self::Gcp => GoogleConfigKey::from_str(key).is_ok(),
            Self::Azure => AzureConfigKey::from_str(key).is_ok(),
            Self::Http => ClientConfigKey::from_str(key).is_ok(),
        }
    }

    fn examples(self) -> &'static str {
        match self {
            Self::Aws => {
                "access_key_id, secret_access_key, session_token, region, endpoint, allow_http, skip_signature"
            }
            Self::Gcp => "service_account_path, service_account_key, application_credentials_path, skip_signature",
            Self::Azure => "account_name, account_key, sas_key, client_id, client_secret, tenant_id, endpoint",
            Self::Http => "allow_http, timeout, connect_timeout, proxy_url, user_agent",
        }
    }
}

/// Options of one store: names as `object_store` has them, without the provider's prefix.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    /// Options that came over the wire; they are checked when the store is opened.
    pub fn from_wire(options: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(options.into_iter().collect())
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, secrets included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Names, and values that may be seen.
    pub fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().map(|(key, value)| (key, if is_secret(key) { REDACTED } else { value }))
    }

    /// Sets one; an empty value takes it back. An unknown name is an error.
    pub fn set(&mut self, provider: Provider, key: &str, value: &str) -> Result<()> {
        if !provider.knows(key) {
            let (prefix, examples) = (provider.prefix(), provider.examples());
            return Err(DataFusionError::Configuration(format!(
                "there is no option {prefix}.{key}. Options of {prefix} are, among others: {examples}"
            )));
        }
        match value {
            "" => self.0.remove(key),
            value => self.0.insert(key.to_owned(), value.to_owned()),
        };
        Ok(())
    }

    /// `self`, with `other` where both say something.
    pub fn overlaid(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.0.extend(other.0.clone());
        all
    }

    /// Whether they say who asks.
    pub(super) fn identify(&self) -> bool {
        self.0.keys().any(|key| IDENTITY.iter().any(|part| key.contains(part)))
    }

    /// Whether they say where to ask.
    pub(super) fn redirect(&self) -> bool {
        self.0.keys().any(|key| ["endpoint", "base_url", "proxy"].iter().any(|part| key.contains(part)))
    }
}

/// Not the values of secrets.
impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

/// Whether the value of an option, with or without its provider's prefix, is nobody's business.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET.iter().any(|part| key.contains(part)) && !NOT_SECRET.iter().any(|part| key.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for secret in [
            "secret_access_key",
            "aws.session_token",
            "access_key_id",
            "azure.sas_token",
            "service_account_key",
            "client_secret",
            "sse_customer_key_base64",
            "access_key",
            "bearer_token",
        ] {
            assert!(is_secret(secret), "{secret}");
        }
        for open in
            ["region", "endpoint", "aws.allow_http", "web_identity_token_file", "skip_signature", "account_name"]
        {
            assert!(!is_secret(open), "{open}");
        }
    }

    #[test]
    fn an_unknown_option_is_an_error_that_teaches() {
        let error = StoreOptions::default().set(Provider::Aws, "regoin", "x").unwrap_err().to_string();
        assert!(error.contains("aws.regoin") && error.contains("region"), "{error}");
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut options = StoreOptions::default();
        options.set(Provider::Aws, "secret_access_key", "hush").unwrap();
        options.set(Provider::Aws, "region", "eu-north-1").unwrap();
        let text = format!("{options:?}");
        assert!(text.contains("eu-north-1") && text.contains(REDACTED) && !text.contains("hush"), "{text}");
    }

    #[test]
    fn an_empty_value_takes_an_option_back() {
        let mut options = StoreOptions::default();
        options.set(Provider::Gcp, "skip_signature", "true").unwrap();
        assert!(options.identify());
        options.set(Provider::Gcp, "skip_signature", "").unwrap();
        assert!(options.is_empty());
    }
}
