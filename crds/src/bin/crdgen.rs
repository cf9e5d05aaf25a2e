//! Writes the definitions of the API, one file a kind, into the folders given (`crds/yaml`, `charts/fettle/files/crds`).

#![allow(clippy::print_stderr, reason = "a command line tool")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folders: Vec<String> = std::env::args().skip(1).collect();
    if folders.is_empty() || folders.iter().any(|folder| folder.starts_with('-')) {
        eprintln!("usage: crdgen FOLDER...\nwrites one YAML file for each kind of fettle.dev into each folder");
        return ExitCode::from(2);
    }
    for folder in &folders {
        if let Err(error) = write(Path::new(folder)) {
            eprintln!("crdgen: {folder}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn write(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, yaml) in fettle_crds::schema::documents().map_err(std::io::Error::other)? {
        std::fs::write(folder.join(name), yaml)?;
    }
    Ok(())
}
