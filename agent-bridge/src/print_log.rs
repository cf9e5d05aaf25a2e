//! Printing a log that a device brought: the image has no shell, and no `cat`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Copies a log to standard output.
///
/// Nothing but logs: who may look at those need not see what else a bridge has.
///
/// # Errors
/// Where it is no file of the log folder in `data_dir`, or cannot be read.
pub fn print_log(path: &Path, data_dir: &Path) -> io::Result<()> {
    let folder = data_dir.join("logs").canonicalize()?;
    let path = path.canonicalize()?;
    if !path.starts_with(&folder) {
        let message = format!("not a log in {}", folder.display());
        return Err(io::Error::new(ErrorKind::PermissionDenied, message));
    }
    io::copy(&mut File::open(path)?, &mut io::stdout().lock()).map(drop)
}
