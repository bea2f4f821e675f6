// SPDX-License-Identifier: Apache-2.0
//! Where the scheduler is, and the one tuned channel of a session to it.

use std::fmt;
use std::time::Duration;

use ballista_proto::GetClusterRequest;
use ballista_proto::scheduler_service_client::SchedulerServiceClient;
use tonic::transport::{Channel, Endpoint};
use url::Url;

use crate::error::{ClientError, root_cause};

/// Most bytes of one message: a plan with its in-memory tables, or a part of a result.
pub const MESSAGE_BYTES: usize = 512 << 20;

/// Most bytes of an encoded plan; below the scheduler's limit of a request.
pub const PLAN_BYTES: usize = 240 << 20;

/// Port of a scheduler whose address names none.
pub const DEFAULT_PORT: u16 = 50050;

const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The client half of the scheduler's service.
pub type SchedulerClient = SchedulerServiceClient<Channel>;

/// Address of a scheduler, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerEndpoint {
    scheme: &'static str,
    host: String,
    port: u16,
}

impl SchedulerEndpoint {
    /// Takes `df://host:port`, `http://host:port`; the port may be left out.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let invalid = |reason: &str| ClientError::InvalidUrl { url: url.to_owned(), reason: reason.to_owned() };
        let parsed = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        let scheme = match parsed.scheme() {
            "df" | "http" => "http",
            "https" => return Err(invalid("this build has no TLS")),
            other => return Err(invalid(&format!("unknown scheme \"{other}\""))),
        };
        if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
            return Err(invalid("a path or query has no meaning here"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(invalid("credentials do not belong into the address"));
        }
        let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| invalid("the host is missing"))?;
        // `port()` is `None` for the default port of http, which was then written out or meant to be ours.
        let port = match (parsed.port(), parsed.scheme()) {
            (Some(port), _) => port,
            (None, "http") if url.trim_end_matches('/').ends_with(":80") => 80,
            (None, _) => DEFAULT_PORT,
        };
        Ok(Self { scheme, host: host.to_owned(), port })
    }

    /// Opens the channel; an error if nobody answers.
    pub async fn connect(&self) -> Result<SchedulerClient, ClientError> {
        let unreachable = |reason: String| ClientError::Unreachable { scheduler: self.to_string(), reason };
        let uri = format!("{}://{}:{}", self.scheme, self.host, self.port);
        let endpoint = Endpoint::from_shared(uri).map_err(|error| unreachable(root_cause(&error)))?;
        let channel = tuned(endpoint).connect().await.map_err(|error| unreachable(root_cause(&error)))?;
        let mut client = client_over(channel);
        // Something else may be listening there; better to hear of it now than at the first query.
        client
            .get_cluster(GetClusterRequest {})
            .await
            .map_err(|status| ClientError::of_call(&self.to_string(), &status))?;
        Ok(client)
    }
}

impl fmt::Display for SchedulerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "df://{}:{}", self.host, self.port)
    }
}

/// Settings of every connection between client and scheduler.
pub fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEP_ALIVE))
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// The service over a channel of any transport.
pub fn client_over(channel: Channel) -> SchedulerClient {
    SchedulerServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_completed() {
        for (url, shown) in [
            ("df://localhost:50051", "df://localhost:50051"),
            ("df://localhost", "df://localhost:50050"),
            ("http://10.0.0.1:80", "df://10.0.0.1:80"),
            ("http://[::1]:50050/", "df://[::1]:50050"),
        ] {
            assert_eq!(SchedulerEndpoint::parse(url).unwrap().to_string(), shown);
        }
        for url in
            ["localhost:50050", "ftp://host:1", "df://", "df://host/path", "df://user:secret@host", "", "https://host"]
        {
            let error = SchedulerEndpoint::parse(url).unwrap_err().to_string();
            assert!(error.contains("df://host:port"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_dead_address_says_what_where_and_what_to_do() {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("df://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = SchedulerEndpoint::parse(&url).unwrap().connect().await.unwrap_err().to_string();
        assert!(error.contains(&url) && error.contains("ballista-scheduler"), "{error}");
        assert!(error.to_lowercase().contains("refused"), "{error}");
    }
}
