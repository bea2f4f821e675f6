// SPDX-License-Identifier: Apache-2.0
//! This program as `protoc`.
//!
//! The crate `substrait` compiles its messages with the program that the environment variable `PROTOC` names. So that
//! nobody has to install one, cargo is told to run a copy of this program, which does it with a library.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;

use crate::cargo::binary_dir;

/// Name of the copy.
const COPY: &str = "xtask-protoc";

/// The variable that names the compiler.
pub const VARIABLE: &str = "PROTOC";

/// The compiler for build scripts, unless the user has named one.
pub fn for_builds() -> Result<Option<PathBuf>, String> {
    if std::env::var_os(VARIABLE).is_some() {
        return Ok(None);
    }
    let folder = binary_dir()?;
    let copy = folder.join(COPY);
    let copied = std::env::current_exe().and_then(|this| {
        // Renamed into place: another build may be running the one that is there.
        let new = folder.join(format!("{COPY}-{}", std::process::id()));
        fs::copy(this, &new)?;
        fs::rename(new, &copy)
    });
    copied.map_err(|error| format!("cannot make {}: {error}", copy.display()))?;
    Ok(Some(copy))
}

/// Whether this process was started as that copy.
pub fn is_wanted() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|name| name.file_name() == Some(OsStr::new(COPY)))
}

/// Does what `protoc` does for `prost-build`: `--include_imports --include_source_info -o OUT -I DIR … FILE …`.
pub fn run() -> Result<(), String> {
    let (mut output, mut includes, mut files) = (None, vec![], vec![]);
    let (mut imports, mut source_info) = (false, false);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{} needs a value", argument.display()));
        match argument.to_str() {
            Some("--include_imports") => imports = true,
            Some("--include_source_info") => source_info = true,
            Some("-o") => output = Some(value()?),
            Some("-I") => includes.push(value()?),
            Some(flag) if flag.starts_with('-') => return Err(format!("no such option here: {flag}")),
            _ => files.push(argument),
        }
    }
    let output: OsString = output.ok_or("no -o")?;
    let mut compiler = protox::Compiler::new(includes).map_err(|error| error.to_string())?;
    compiler.include_imports(imports).include_source_info(source_info);
    compiler.open_files(files).map_err(|error| error.to_string())?;
    fs::write(&output, compiler.encode_file_descriptor_set())
        .map_err(|error| format!("cannot write {}: {error}", output.display()))
}
