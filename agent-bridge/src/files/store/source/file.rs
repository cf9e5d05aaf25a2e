//! Files of a volume that is mounted in the bridge.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::super::SourceError;

/// Opens a file of `files_dir`. Symbolic links are followed within it (mounted volumes consist of them), and nothing leads
/// out of it. What someone could swap in between the check and the opening would still have to have the declared hash.
pub(in crate::files::store) fn open_file(files_dir: &Path, path: &str, origin: &str) -> Result<File, SourceError> {
    let invalid = |detail| SourceError::InvalidPath { origin: origin.to_owned(), detail };
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            SourceError::NotFound { origin: origin.to_owned(), detail: String::new() }
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => invalid("it is not a file name"),
        _ => SourceError::Io { origin: origin.to_owned(), doing: "read", detail: error.to_string() },
    };

    let relative = Path::new(path);
    if path.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(invalid("a path must be relative and must not contain '..'"));
    }
    let root = files_dir.canonicalize().map_err(unreadable)?;
    let real: PathBuf = root.join(relative).canonicalize().map_err(unreadable)?;
    if !real.starts_with(&root) {
        return Err(invalid("it leads out of the folder of files"));
    }
    // Before opening: to open a pipe would wait for its other end.
    if !real.metadata().map_err(unreadable)?.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    File::open(&real).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_of_the_folder_or_is_no_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let files = dir.path().join("files");
        std::fs::create_dir_all(files.join("..data/models")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(files.join("..data/models/a.bin"), "inside").unwrap();
        std::os::unix::fs::symlink("..data/models", files.join("models")).unwrap();
        std::os::unix::fs::symlink("../secret", files.join("escape")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", files.join("absolute")).unwrap();
        let pipe = files.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();

        let reason = |path: &str| open_file(&files, path, "file x").map(|_| ()).map_err(|e| e.reason());
        assert_eq!(reason("models/a.bin"), Ok(()), "links within the folder are how volumes are mounted");
        assert_eq!(reason("./models/a.bin"), Ok(()));
        for path in
            ["", "/etc/passwd", "../secret", "models/../../secret", "escape", "absolute", "models", "pipe", "a\0b"]
        {
            assert_eq!(reason(path), Err("InvalidPath"), "{path:?}");
        }
        for path in ["none", "models/a.bin/b"] {
            assert_eq!(reason(path), Err("NotFound"), "{path:?}");
        }
    }
}
