//! Writes the definitions of the API, one file a kind, into the folders given (`crds/yaml`, `charts/fettle/files/crds`), and
//! the page on which people look fields up (`docs/api.md`).

#![allow(clippy::print_stderr, reason = "a command line tool")]

mod reference;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: crdgen FILE.md FOLDER...
writes a reference of the kinds of fettle.dev into the file, and one YAML file for each into each folder";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let page = arguments.next().filter(|page| page.ends_with(".md"));
    let folders: Vec<String> = arguments.collect();
    let Some(page) = page.filter(|_| !folders.is_empty() && !folders.iter().any(|folder| folder.starts_with('-')))
    else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let written = reference(Path::new(&page)).map_err(|error| (page, error));
    let written = written.and_then(|()| {
        folders.into_iter().try_for_each(|folder| yaml(Path::new(&folder)).map_err(|error| (folder, error)))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err((place, error)) => {
            eprintln!("crdgen: {place}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn reference(file: &Path) -> std::io::Result<()> {
    std::fs::write(file, reference::page(&fettle_crds::all()).map_err(std::io::Error::other)?)
}

fn yaml(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, yaml) in fettle_crds::schema::documents().map_err(std::io::Error::other)? {
        std::fs::write(folder.join(name), yaml)?;
    }
    Ok(())
}
