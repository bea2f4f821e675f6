// SPDX-License-Identifier: Apache-2.0
//! A server that speaks the protocol of S3, in this process, over a folder.

use std::path::{Path, PathBuf};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub const ACCESS_KEY: &str = "AKIATHEACCESSKEY";
pub const SECRET: &str = "hush-this-is-secret";

pub struct S3 {
    folder: tempfile::TempDir,
    port: u16,
    server: JoinHandle<()>,
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl S3 {
    /// With one bucket, `data`. Without `auth`, everybody may do everything.
    pub async fn start(auth: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        if auth {
            builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET));
        }
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let service = service.clone();
                tokio::spawn(async move {
                    // A client that goes away ends its connection with an error.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { folder, port, server }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a statement says to be let in.
    pub fn options(&self) -> String {
        format!(
            "OPTIONS ('aws.access_key_id' '{ACCESS_KEY}', 'aws.secret_access_key' '{SECRET}', 'aws.region' 'us-east-1', \
             'aws.endpoint' '{}', 'aws.allow_http' 'true')",
            self.endpoint()
        )
    }

    /// The same as settings.
    pub fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("aws.access_key_id", ACCESS_KEY.to_owned()),
            ("aws.secret_access_key", SECRET.to_owned()),
            ("aws.region", "us-east-1".to_owned()),
            ("aws.endpoint", self.endpoint()),
            ("aws.allow_http", "true".to_owned()),
        ]
    }

    /// Where an object of the bucket lies.
    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("data").join(key)
    }

    /// Every object below `key`.
    pub fn objects(&self, key: &str) -> Vec<PathBuf> {
        fn add(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { add(&path, found) } else { found.push(path) }
            }
        }
        let mut found = vec![];
        add(&self.path(key), &mut found);
        found
    }

    /// The server's records of uploads that are neither completed nor aborted.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_record =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".upload-"));
        entries.filter(is_record).collect()
    }
}
