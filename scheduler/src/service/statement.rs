// SPDX-License-Identifier: Apache-2.0
//! Sessions that live here: opening one, and statements in it.

use ballista_proto as proto;

use super::check_versions;
use super::execute::check_settings;
use crate::error::{Result, SchedulerError};
use crate::sql::SqlSessions;
use crate::sql::statement::Events;

/// Opens a session.
pub(super) async fn open(
    sessions: Option<&SqlSessions>,
    request: proto::OpenSessionRequest,
) -> Result<proto::OpenSessionResponse> {
    let sessions = sessions.ok_or(SchedulerError::NoSqlSessions)?;
    check_client(request.protocol_version)?;
    let (session, idle) = sessions.open(check_settings(request.settings)?).await?;
    let idle_millis = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    Ok(proto::OpenSessionResponse { session, idle_millis })
}

/// Runs a statement.
pub(super) fn execute(sessions: Option<&SqlSessions>, request: proto::ExecuteStatementRequest) -> Result<Events> {
    let sessions = sessions.ok_or(SchedulerError::NoSqlSessions)?;
    check_client(request.protocol_version)?;
    let statement = request.statement.ok_or_else(|| SchedulerError::Protocol("no statement".to_owned()))?;
    sessions.execute(&request.session, statement)
}

/// Text and rows are all that is exchanged, so any DataFusion will do.
fn check_client(protocol: u32) -> Result<()> {
    check_versions("the client", protocol, datafusion::DATAFUSION_VERSION)
}
