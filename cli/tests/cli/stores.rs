// SPDX-License-Identifier: Apache-2.0
//! Object stores that are opened with what the environment of the process says.

use tokio::runtime::Runtime;

use crate::common::{Home, Ran};

#[allow(dead_code)]
#[path = "../../../ballista/tests/it/s3.rs"]
mod s3;

#[test]
fn the_environment_opens_stores() {
    let runtime = Runtime::new().unwrap();
    let s3 = runtime.block_on(s3::S3::start(true));
    let home = Home::new();
    let sql = "COPY (SELECT x AS a FROM generate_series(1, 100) AS t(x)) TO 's3://data/a.csv' STORED AS CSV; \
               SELECT count(*) AS n, sum(a) AS s FROM 's3://data/a.csv'";
    let run = |variables: &[(&str, &str)]| {
        let mut command = home.command(&["-q", "--format", "csv", "-c", sql]);
        command.env("AWS_ENDPOINT", s3.endpoint()).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        Ran::from(command.envs(variables.iter().copied()).output().unwrap())
    };
    let right = run(&[("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", s3::SECRET)]);
    assert_eq!(right.ok(), "count\n100\nn,s\n100,5050\n");
    let wrong = run(&[("AWS_ACCESS_KEY_ID", s3::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", "another-secret")]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.err.contains("SignatureDoesNotMatch") && !wrong.err.contains("another-secret"), "{}", wrong.err);
}
