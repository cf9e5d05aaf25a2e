//! Tells a launcher which ports the program chose.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Writes `NAME=host:port` lines. The file appears whole or not at all, so that a launcher may wait for it.
///
/// # Errors
/// Those of writing a file beside `path` and renaming it.
pub fn ports_file(path: &Path, ports: &[(&str, SocketAddr)]) -> io::Result<()> {
    let mut text = String::new();
    for (name, address) in ports {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}={address}");
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_a_line_for_each_port_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports");
        let address = |text: &str| text.parse().unwrap();
        ports_file(&path, &[("DEVICE", address("0.0.0.0:7070")), ("FTP", address("127.0.0.1:21"))]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "DEVICE=0.0.0.0:7070\nFTP=127.0.0.1:21\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
