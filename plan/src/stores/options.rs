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

/// Directives for the filter of a log that would show more than `info`: below that, these crates log whole statements,
/// with the secrets in them.
pub const QUIET_LOGS: [&str; 2] = ["datafusion=warn", "sqlparser=warn"];

/// Parts of the names of options whose values are secret.
const SECRET: [&str; 8] = ["key", "secret", "token", "sas", "credential", "password", "assertion", "authorization"];

/// Options whose names look secret but that only say where a secret is, or how to use it.
const NOT_SECRET: [&str; 7] = [
    "token_file",
    "token_service_url",
    "credentials_full_uri",
    "credentials_relative_uri",
    "bucket_key",
    "application_credentials",
    "kms_key",
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

    /// The provider and the rest of the name of an option such as `aws.region`.
    pub fn of_option(name: &str) -> Option<(Self, &str)> {
        let (prefix, key) = name.split_once('.')?;
        let provider = Self::ALL.into_iter().find(|provider| prefix.eq_ignore_ascii_case(provider.prefix()))?;
        Some((provider, key))
    }

    /// Beginnings of the names that `object_store` and the environment give options; the one name of an option here is
    /// without.
    fn beginnings(self) -> &'static [&'static str] {
        match self {
            Self::Aws => &["aws_"],
            Self::Gcp => &["google_"],
            Self::Azure => &["azure_storage_", "azure_"],
            Self::Http => &[],
        }
    }

    /// The one name of an option that has several; `None` if there is no such option.
    fn canonical(self, key: &str) -> Option<String> {
        let key = key.to_ascii_lowercase();
        let full = match self {
            Self::Aws => self.parse::<AmazonS3ConfigKey>(&key)?.as_ref().to_owned(),
            Self::Gcp => self.parse::<GoogleConfigKey>(&key)?.as_ref().to_owned(),
            Self::Azure => self.parse::<AzureConfigKey>(&key)?.as_ref().to_owned(),
            Self::Http => self.parse::<ClientConfigKey>(&key)?.as_ref().to_owned(),
        };
        let short = self.beginnings().iter().find_map(|beginning| full.strip_prefix(beginning));
        Some(short.map_or(full.clone(), str::to_owned))
    }

    /// `key`, with or without a beginning, as `object_store` knows it.
    pub(super) fn parse<K: FromStr>(self, key: &str) -> Option<K> {
        let with_beginning = self.beginnings().iter().map(|beginning| format!("{beginning}{key}"));
        std::iter::once(key.to_owned()).chain(with_beginning).find_map(|key| key.parse().ok())
    }

    /// Options that say who asks, all of which one set of credentials replaces.
    fn identity(self) -> &'static [&'static str] {
        match self {
            Self::Aws => &[
                "access_key_id",
                "secret_access_key",
                "session_token",
                "skip_signature",
                "role_arn",
                "role_session_name",
                "web_identity_token_file",
                "container_credentials_relative_uri",
                "container_credentials_full_uri",
                "container_authorization_token_file",
            ],
            Self::Gcp => &["service_account", "service_account_key", "application_credentials", "skip_signature"],
            Self::Azure => &[
                "account_key",
                "sas_key",
                "token",
                "client_id",
                "client_secret",
                "tenant_id",
                "federated_token_file",
                "msi_endpoint",
                "msi_resource_id",
                "object_id",
                "use_azure_cli",
                "skip_signature",
            ],
            Self::Http => &[],
        }
    }

    /// Sets of options each of which is all that is needed to say who asks, wherever it is said.
    fn credentials(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Aws => &[&["access_key_id", "secret_access_key"], &["skip_signature"]],
            Self::Gcp => &[&["service_account_key"], &["skip_signature"]],
            Self::Azure => &[
                &["account_key"],
                &["sas_key"],
                &["token"],
                &["client_id", "client_secret", "tenant_id"],
                &["skip_signature"],
            ],
            Self::Http => &[&[]],
        }
    }

    /// Options that a process takes from others beside complete credentials. The rest names files and services of the
    /// process itself.
    fn taken_from_others(self) -> &'static [&'static str] {
        match self {
            Self::Aws => &["session_token", "endpoint", "endpoint_url_s3", "proxy_url", "proxy_ca_certificate"],
            Self::Gcp => &["base_url", "proxy_url", "proxy_ca_certificate"],
            Self::Azure => &["account_name", "authority_host", "endpoint", "proxy_url", "proxy_ca_certificate"],
            Self::Http => &["proxy_url", "proxy_ca_certificate", "allow_invalid_certificates"],
        }
    }

    fn examples(self) -> &'static str {
        match self {
            Self::Aws => {
                "access_key_id, secret_access_key, session_token, region, endpoint, allow_http, skip_signature"
            }
            Self::Gcp => "service_account_key, service_account, application_credentials, skip_signature",
            Self::Azure => "account_name, account_key, sas_key, client_id, client_secret, tenant_id, endpoint",
            Self::Http => "allow_http, timeout, connect_timeout, proxy_url, user_agent",
        }
    }
}

/// Options that change neither who asks nor whom. A region is part of a host's name, so it is one only if it looks like
/// one.
const HARMLESS: [&str; 27] = [
    "region",
    "default_region",
    "virtual_hosted_style_request",
    "s3_express",
    "unsigned_payload",
    "checksum_algorithm",
    "copy_if_not_exists",
    "conditional_put",
    "disable_tagging",
    "request_payer",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "sse_customer_key_base64",
    "allow_http",
    "connect_timeout",
    "timeout",
    "default_content_type",
    "http1_only",
    "http2_only",
    "http2_keep_alive_interval",
    "http2_keep_alive_timeout",
    "http2_keep_alive_while_idle",
    "http2_max_frame_size",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "user_agent",
];

/// Options of one store, each under its one name, without the provider's prefix.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(BTreeMap<String, String>);

impl StoreOptions {
    /// Options that came over the wire; they are checked when the store is opened.
    pub fn from_wire(options: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(options.into_iter().collect())
    }

    /// What the environment of this process says.
    pub(super) fn from_environment(provider: Provider) -> Self {
        let beginning = match provider {
            Provider::Aws => "AWS_",
            Provider::Gcp => "GOOGLE_",
            Provider::Azure => "AZURE_",
            Provider::Http => return Self::default(),
        };
        let mut found = Self::default();
        for (name, value) in std::env::vars_os() {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
            let key = match (provider, name) {
                (Provider::Gcp, "SERVICE_ACCOUNT") => Some("service_account".to_owned()),
                (Provider::Azure, "IDENTITY_ENDPOINT") => Some("msi_endpoint".to_owned()),
                _ if name.starts_with(beginning) => provider.canonical(name),
                _ => None,
            };
            if let Some(key) = key {
                found.0.insert(key, value.to_owned());
            }
        }
        found
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Names and values, secrets included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Names, and values that may be seen.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String)> {
        self.iter().map(|(key, value)| (key, if is_secret(key) { REDACTED.to_owned() } else { without_user(value) }))
    }

    /// Sets one; an empty value takes it back, and also what is said with less weight. An unknown name is an error.
    pub fn set(&mut self, provider: Provider, key: &str, value: &str) -> Result<()> {
        let Some(key) = provider.canonical(key) else {
            let (prefix, examples) = (provider.prefix(), provider.examples());
            return Err(DataFusionError::Configuration(format!(
                "there is no option {prefix}.{key}. Options of {prefix} are, among others: {examples}"
            )));
        };
        self.0.insert(key, value.to_owned());
        Ok(())
    }

    /// `self`, with `other` where both say something. Credentials are replaced as a whole.
    pub fn overlaid(&self, provider: Provider, other: &Self) -> Self {
        let mut all = self.clone();
        if other.brings_credentials(provider) {
            all.0.retain(|key, _| !provider.identity().contains(&key.as_str()));
        }
        all.0.extend(other.0.clone());
        all
    }

    /// Whether they have a part of credentials that stand for themselves.
    fn brings_credentials(&self, provider: Provider) -> bool {
        let mut parts = provider.credentials().iter().copied().flatten();
        parts.any(|part| self.get(part).is_some() && !["client_id", "tenant_id"].contains(part))
    }

    /// Decides on options that somebody else has given, for a process that has an environment of its own: `true` to
    /// open the store with them alone, `false` to add what the environment says. An error if they would have this
    /// process send what is its own to somebody else, or open what is its own.
    pub(super) fn stand_alone(&self, provider: Provider) -> Result<bool> {
        let is_set = |key: &&str| self.get(key).is_some_and(|value| *key != "skip_signature" || is_true(value));
        let complete = provider.credentials().iter().find(|set| set.iter().all(is_set));
        let looks_right = |(key, value): &(&str, &str)| {
            HARMLESS.contains(key) && (!key.ends_with("region") || value.chars().all(is_region_char))
        };
        let others: Vec<_> = self.iter().filter(|option| !looks_right(option)).map(|(key, _)| key).collect();
        let prefix = provider.prefix();
        if let Some(complete) = complete {
            let allowed = |key: &&str| complete.contains(key) || provider.taken_from_others().contains(key);
            return match others.iter().find(|key| !allowed(key)) {
                None => Ok(true),
                Some(key) => Err(DataFusionError::Configuration(format!(
                    "option {prefix}.{key} cannot be given to executors with a query"
                ))),
            };
        }
        match others.first() {
            None => Ok(false),
            Some(key) => Err(DataFusionError::Configuration(format!(
                "option {prefix}.{key} without complete credentials: executors use what their own environment says only \
                 where a query changes neither who asks nor whom. Give {}",
                provider.credentials().iter().map(|set| set.join(" and ")).collect::<Vec<_>>().join(", or ")
            ))),
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
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

/// Whether a statement seems to hold a secret: the name of such an option, or a URL with a password.
pub fn seems_secret(statement: &str) -> bool {
    let words = statement.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    let names = words.filter(|word| Provider::of_option(word).is_some_and(|(_, key)| is_secret(key)));
    let has_password = |url: &str| url.split(['/', '\'', ' ']).next().is_some_and(|authority| authority.contains('@'));
    names.count() > 0 || statement.split("://").skip(1).any(has_password)
}

/// A value without the user and password of a URL.
fn without_user(value: &str) -> String {
    match value.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://{REDACTED}@{host}"),
            None => value.to_owned(),
        },
        None => value.to_owned(),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&value.to_ascii_lowercase().as_str())
}

fn is_region_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(provider: Provider, pairs: &[(&str, &str)]) -> StoreOptions {
        let mut options = StoreOptions::default();
        for (key, value) in pairs {
            options.set(provider, key, value).unwrap();
        }
        options
    }

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
        for open in ["region", "endpoint", "aws.allow_http", "web_identity_token_file", "account_name"] {
            assert!(!is_secret(open), "{open}");
        }
        assert!(seems_secret("set AWS.Sse_Customer_Key_Base64 = 'x'") && seems_secret("SET a = 'http://u:p@host/x'"));
        assert!(seems_secret("OPTIONS ('aws.secret_access_key'\n'x\ny')"));
        assert!(!seems_secret("SELECT * FROM 'https://host/a@b' JOIN t USING (key)"));
    }

    #[test]
    fn an_unknown_option_is_an_error_that_teaches() {
        let error = StoreOptions::default().set(Provider::Aws, "regoin", "x").unwrap_err().to_string();
        assert!(error.contains("aws.regoin") && error.contains("region"), "{error}");
    }

    #[test]
    fn debug_shows_no_secret() {
        let text = options(
            Provider::Aws,
            &[("secret_access_key", "hush"), ("region", "eu-north-1"), ("proxy_url", "http://u:hush@proxy:1")],
        );
        let text = format!("{text:?}");
        assert!(text.contains("eu-north-1") && text.contains("***@proxy:1") && !text.contains("hush"), "{text}");
    }

    #[test]
    fn names_of_one_option_are_one_and_credentials_are_replaced_as_a_whole() {
        let session = options(
            Provider::Aws,
            &[("aws_endpoint_url", "a"), ("AWS_TOKEN", "t"), ("access_key_id", "k"), ("secret_access_key", "s")],
        );
        let statement =
            options(Provider::Aws, &[("endpoint", "b"), ("access_key_id", "l"), ("secret_access_key", "r")]);
        let both = session.overlaid(Provider::Aws, &statement);
        let pairs: Vec<_> = both.iter().collect();
        assert_eq!(pairs, [("access_key_id", "l"), ("endpoint", "b"), ("secret_access_key", "r")]);
        let unset = session.overlaid(Provider::Aws, &options(Provider::Aws, &[("endpoint", "")]));
        assert!(unset.iter().all(|(key, _)| key != "endpoint"));
    }

    #[test]
    fn options_of_others_neither_send_nor_open_what_is_the_processs_own() {
        use Provider::{Aws, Azure, Gcp};
        for (provider, pairs) in [
            (Aws, vec![("endpoint", "http://evil")]),
            (Aws, vec![("endpoint", "http://evil"), ("skip_signature", "false")]),
            (Aws, vec![("endpoint", "http://evil"), ("access_key_id", "k")]),
            (Aws, vec![("region", "x@evil:443/")]),
            (
                Aws,
                vec![
                    ("role_arn", "r"),
                    ("web_identity_token_file", "/etc/passwd"),
                    ("endpoint_url_sts", "http://evil"),
                ],
            ),
            (Aws, vec![("access_key_id", "k"), ("secret_access_key", "s"), ("web_identity_token_file", "/etc/passwd")]),
            (Aws, vec![("proxy_url", "http://evil")]),
            (Azure, vec![("use_azure_cli", "true"), ("endpoint", "http://evil")]),
            (Azure, vec![("authority_host", "http://evil")]),
            (Azure, vec![("account_name", "x@evil/")]),
            (Gcp, vec![("service_account", "/etc/passwd"), ("base_url", "http://evil")]),
            (Gcp, vec![("application_credentials", "/etc/key.json")]),
            (Gcp, vec![("skip_signature", "false"), ("base_url", "http://evil")]),
        ] {
            assert!(options(provider, &pairs).stand_alone(provider).is_err(), "{pairs:?}");
        }
        let keys =
            [("access_key_id", "k"), ("secret_access_key", "s"), ("endpoint", "http://mine"), ("allow_http", "true")];
        assert!(options(Aws, &keys).stand_alone(Aws).unwrap());
        assert!(options(Aws, &[("skip_signature", "true"), ("endpoint", "http://mine")]).stand_alone(Aws).unwrap());
        assert!(!options(Aws, &[("region", "eu-west-1"), ("timeout", "9s")]).stand_alone(Aws).unwrap());
        assert!(options(Azure, &[("account_name", "a"), ("account_key", "k")]).stand_alone(Azure).unwrap());
        assert!(options(Provider::Http, &[("timeout", "9s")]).stand_alone(Provider::Http).unwrap());
    }

    #[test]
    fn every_option_has_one_name_that_can_be_said() {
        for provider in Provider::ALL {
            let named = provider.credentials().iter().copied().flatten().chain(provider.identity());
            for key in named.chain(provider.taken_from_others()) {
                assert_eq!(provider.canonical(key).as_deref(), Some(*key), "{provider:?}");
            }
        }
        for key in HARMLESS {
            assert_eq!(Provider::Aws.canonical(key).as_deref(), Some(key));
        }
        assert_eq!(Provider::Aws.canonical("AWS_ENDPOINT_URL_S3").as_deref(), Some("endpoint_url_s3"));
        assert_eq!(Provider::Azure.canonical("azure_storage_access_key").as_deref(), Some("account_key"));
    }
}
