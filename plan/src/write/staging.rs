// SPDX-License-Identifier: Apache-2.0
//! Uploads that wait for their last step.
//!
//! A task writes through [`TaskWrites`]: its object stores look like the session's, but completing an upload only puts
//! it aside. Object stores show a multipart upload when it is completed, and the local file system shows a file when
//! it is renamed, so whatever is put aside cannot be seen. Files of a directory are named by partition and job; an
//! attempt that is repeated writes the same names.
//!
//! **Failure modes.** What is neither published nor discarded stays as an uncompleted upload: stores expire those by
//! their own rules, the local file system keeps `name#number`, which listings leave out. The attempt that is published
//! removes those of attempts that died.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};
use parking_lot::Mutex;
use prost::bytes::Bytes;
use tokio::runtime::Handle;
use url::Url;

/// Files up to this size are kept in memory until they are published; larger ones are uploads.
const IN_MEMORY_BYTES: usize = 16 << 10;

/// Length of the random name that DataFusion gives the files of one write.
const WRITE_ID_LENGTH: usize = 16;

/// What one task writes. Carried as an extension of the task's `SessionConfig`.
#[derive(Debug)]
pub struct TaskWrites {
    job: String,
    /// The stage's partition that each partition of the task's plan is.
    partitions: Vec<usize>,
    staged: Arc<Staging>,
}

/// Files that were put aside.
#[derive(Debug, Default)]
struct Staging {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    files: Vec<Staged>,
    closed: bool,
}

impl Staging {
    /// Keeps a file, or throws it away if the task has ended.
    fn put(&self, file: Staged) {
        {
            let mut open = self.open.lock();
            if !open.closed {
                open.files.push(file);
                return;
            }
        }
        let path = file.path.clone();
        let Ok(runtime) = Handle::try_current() else {
            tracing::warn!(%path, "an uncompleted upload stays behind: its task has ended, and so has its runtime");
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = file.discard().await {
                tracing::warn!(%path, %error, "an uncompleted upload stays behind");
            }
        });
    }
}

impl TaskWrites {
    /// Of a task of `job` that runs these partitions of its stage.
    pub fn new(job: String, partitions: Vec<usize>) -> Self {
        Self { job, partitions, staged: Arc::default() }
    }

    /// Takes what the task has put aside; it has ended. Operators may have work of their own that is cancelled and ends
    /// a moment later: the uploads of that are thrown away as they come.
    pub fn take(&self) -> Vec<Staged> {
        let mut open = self.staged.open.lock();
        open.closed = true;
        std::mem::take(&mut open.files)
    }

    /// `context` whose object stores put aside what partition `partition` of the task's plan writes.
    pub(super) fn context_of(&self, partition: usize, context: &TaskContext, rename: bool) -> Result<Arc<TaskContext>> {
        let partition = self.partitions.get(partition).copied().unwrap_or(partition);
        let registry = StagingRegistry {
            inner: Arc::clone(&context.runtime_env().object_store_registry),
            name: rename.then(|| format!("part-{partition:05}-{}", self.job)),
            staged: Arc::clone(&self.staged),
        };
        let runtime =
            RuntimeEnv { object_store_registry: Arc::new(registry), ..context.runtime_env().as_ref().clone() };
        let mut config = context.session_config().clone();
        // Partitions write side by side already.
        config.options_mut().execution.minimum_parallel_output_files = ConfigNonZeroUsize::try_new(1)?;
        let context = TaskContext::new(
            context.task_id(),
            context.session_id(),
            config,
            context.scalar_functions().clone(),
            context.higher_order_functions().clone(),
            context.aggregate_functions().clone(),
            context.window_functions().clone(),
            Arc::new(runtime),
        );
        Ok(Arc::new(context))
    }
}

/// A file that is written but cannot be seen.
pub struct Staged {
    path: Path,
    content: Content,
    /// Where the file will be, if that is on a local file system.
    local: Option<PathBuf>,
}

enum Content {
    Upload(Box<dyn MultipartUpload>),
    Payload { store: Arc<dyn ObjectStore>, payload: PutPayload, options: PutOptions },
}

impl Staged {
    /// Where the file will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file visible.
    pub async fn publish(self) -> object_store::Result<()> {
        match self.content {
            Content::Upload(mut upload) => upload.complete().await.map(drop)?,
            Content::Payload { store, payload, options } => {
                store.put_opts(&self.path, payload, options).await.map(drop)?;
            }
        }
        if let Some(file) = self.local {
            // What cannot be removed cannot be seen either.
            let _ = tokio::task::spawn_blocking(move || remove_uncompleted(&file)).await;
        }
        Ok(())
    }

    /// Throws the file away.
    pub async fn discard(self) -> object_store::Result<()> {
        match self.content {
            Content::Upload(mut upload) => upload.abort().await,
            Content::Payload { .. } => Ok(()),
        }
    }
}

/// Removes `file#number`: what other attempts have left of a file that is published.
fn remove_uncompleted(file: &std::path::Path) -> std::io::Result<()> {
    let (Some(folder), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let other = entry.file_name();
        let number = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('#'));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Staged").field(&self.path.as_ref()).finish()
    }
}

#[derive(Debug)]
struct StagingRegistry {
    inner: Arc<dyn ObjectStoreRegistry>,
    name: Option<String>,
    staged: Arc<Staging>,
}

impl ObjectStoreRegistry for StagingRegistry {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.inner.register_store(url, store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let inner = self.inner.get_store(url)?;
        let is_local = url.scheme() == "file";
        Ok(Arc::new(StagingStore { inner, name: self.name.clone(), is_local, staged: Arc::clone(&self.staged) }))
    }
}

/// An object store whose writes are put aside.
#[derive(Debug)]
struct StagingStore {
    inner: Arc<dyn ObjectStore>,
    name: Option<String>,
    is_local: bool,
    staged: Arc<Staging>,
}

impl fmt::Display for StagingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "staging for {}", self.inner)
    }
}

impl StagingStore {
    /// The file that a path names, on a local file system.
    fn local(&self, path: &Path) -> Option<PathBuf> {
        self.is_local.then(|| PathBuf::from(format!("/{path}")))
    }

    /// The path under which a file that a sink named is published.
    fn published(&self, path: &Path) -> Path {
        let Some(name) = &self.name else { return path.clone() };
        let mut segments: Vec<_> = path.parts().map(|part| part.as_ref().to_owned()).collect();
        if let Some(last) = segments.last_mut()
            && let Some(rest) = last.get(WRITE_ID_LENGTH..)
            && rest.starts_with(['_', '.'])
        {
            *last = format!("{name}{rest}");
        }
        Path::from_iter(segments)
    }
}

#[async_trait]
impl ObjectStore for StagingStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let path = self.published(location);
        let content = if payload.content_length() <= IN_MEMORY_BYTES {
            Content::Payload { store: Arc::clone(&self.inner), payload, options }
        } else {
            let PutOptions { tags, attributes, extensions, .. } = options;
            let multipart = PutMultipartOptions { tags, attributes, extensions };
            let mut upload = self.inner.put_multipart_opts(&path, multipart).await?;
            if let Err(error) = upload.put_part(payload).await {
                upload.abort().await?;
                return Err(error);
            }
            Content::Upload(upload)
        };
        let local = self.local(&path);
        self.staged.put(Staged { path, content, local });
        Ok(put_aside())
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let path = self.published(location);
        let upload = self.inner.put_multipart_opts(&path, options).await?;
        let local = self.local(&path);
        Ok(Box::new(StagedUpload { upload: Some(upload), path, local, staged: Arc::clone(&self.staged) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// What a sink hears of a file that is not visible yet.
fn put_aside() -> PutResult {
    PutResult { e_tag: None, version: None }
}

/// An upload that is put aside instead of being completed, and also when it is dropped halfway: it is to be aborted.
#[derive(Debug)]
struct StagedUpload {
    upload: Option<Box<dyn MultipartUpload>>,
    path: Path,
    local: Option<PathBuf>,
    staged: Arc<Staging>,
}

impl StagedUpload {
    fn put_aside(&mut self) {
        if let Some(upload) = self.upload.take() {
            let (path, local) = (self.path.clone(), self.local.take());
            self.staged.put(Staged { path, content: Content::Upload(upload), local });
        }
    }
}

#[async_trait]
impl MultipartUpload for StagedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match &mut self.upload {
            Some(upload) => upload.put_part(data),
            None => {
                let source = "a part of an upload that has ended".into();
                Box::pin(async { Err(object_store::Error::Generic { store: "staging", source }) })
            }
        }
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.put_aside();
        Ok(put_aside())
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        match self.upload.take() {
            Some(mut upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

impl Drop for StagedUpload {
    fn drop(&mut self) {
        // A task that drops an upload has failed, and what it put aside is discarded.
        self.put_aside();
    }
}
