//! Container images, made of files of this machine, without a daemon and without a registry.
//!
//! An image is an archive as `docker save` writes it, with one layer: the programs, the libraries that they load (the C
//! library and its loader, which is all that ours need), and the few files that libraries look for. The same files give
//! the same bytes. This module writes archives; it loads them nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The user of the programs: `nonroot`, as in the images of distroless. The chart and the Dockerfile name it, too.
pub const USER: u32 = 65532;

/// Where the programs are.
pub const PROGRAMS: &str = "/usr/local/bin";

/// `PATH`, as distroless has it.
const SEARCHED: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Certificates of the public authorities, where Debian and distroless keep them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What becomes an image.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    user: Option<u32>,
    entry_point: Vec<String>,
    files: BTreeMap<PathBuf, Content>,
}

#[derive(Clone, Debug)]
enum Content {
    /// Of this machine, to be run.
    Program(PathBuf),
    /// Likewise, and without what only debuggers read, which is four fifths of ours.
    Stripped(PathBuf),
    /// Of this machine, to be read.
    File(PathBuf),
    Text(String),
    /// To everybody who runs there.
    WritableFolder,
}

/// What an image consists of, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub archive: PathBuf,
    /// Each file in it, and how large it is.
    pub files: Vec<(PathBuf, u64)>,
}

impl Image {
    /// One that has nothing in it. `name` is with its tag.
    pub fn new(name: &str) -> Self {
        let passwd = format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n");
        let files = BTreeMap::from([
            (PathBuf::from("/etc/passwd"), Content::Text(passwd)),
            (PathBuf::from("/etc/group"), Content::Text(format!("root:x:0:\nnonroot:x:{USER}:\n"))),
            // without it names are asked of DNS before /etc/hosts is looked at
            (PathBuf::from("/etc/nsswitch.conf"), Content::Text("hosts: files dns\n".to_owned())),
            (PathBuf::from("/tmp"), Content::WritableFolder),
        ]);
        Image { name: name.to_owned(), user: None, entry_point: Vec::new(), files }
    }

    /// Who runs its programs, where the pod does not say.
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// What it runs, where the pod does not say.
    pub fn entry_point(mut self, command: &[&str]) -> Self {
        self.entry_point = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Adds a program, and what it loads.
    pub fn program(mut self, path: &Path) -> Result<Self> {
        let name = path.file_name().with_context(|| format!("{} is no program", path.display()))?;
        self.files.insert(Path::new(PROGRAMS).join(name), Content::Stripped(path.to_owned()));
        for library in libraries(path)? {
            self.files.insert(library.clone(), Content::Program(library));
        }
        Ok(self)
    }

    /// Adds the certificates of the public authorities, as this machine has them.
    pub fn authorities(mut self) -> Result<Self> {
        ensure!(
            Path::new(AUTHORITIES).is_file(),
            "{AUTHORITIES} is missing, which goes into images: apt-get install -y ca-certificates (as root)"
        );
        self.files.insert(PathBuf::from(AUTHORITIES), Content::File(PathBuf::from(AUTHORITIES)));
        Ok(self)
    }

    /// Writes the archive.
    pub fn write(&self, archive: &Path) -> Result<Written> {
        let folder = archive.parent().context("an archive lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let layer_file = tempfile::NamedTempFile::new_in(folder)?;
        let (files, digest) = self.write_layer(layer_file.as_file())?;

        let mut config = json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": {"Env": [format!("PATH={SEARCHED}")], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        if let Some(user) = self.user {
            config["config"]["User"] = json!(format!("{user}:{user}"));
        }
        if !self.entry_point.is_empty() {
            config["config"]["Entrypoint"] = json!(self.entry_point);
        }
        let config = serde_json::to_vec(&config)?;
        let config_name = format!("{}.json", HEXLOWER.encode(&Sha256::digest(&config)));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}]);

        // complete or not at all
        let unfinished = tempfile::NamedTempFile::new_in(folder)?;
        let mut tar = tar::Builder::new(unfinished.as_file());
        append(&mut tar, Path::new("manifest.json"), &serde_json::to_vec(&manifest)?)?;
        append(&mut tar, Path::new(&config_name), &config)?;
        let length = layer_file.as_file().metadata()?.len();
        let mut header = header(tar::EntryType::Regular, 0o644, length);
        tar.append_data(&mut header, "layer.tar", File::open(layer_file.path())?)?;
        tar.into_inner()?;
        unfinished.persist(archive).with_context(|| format!("cannot write {}", archive.display()))?;
        Ok(Written { archive: archive.to_owned(), files })
    }

    /// Gives what is in it, and its digest.
    fn write_layer(&self, file: &File) -> Result<(Vec<(PathBuf, u64)>, String)> {
        let mut tar = tar::Builder::new(Hashing { file, hash: Sha256::new() });
        let mut folders = BTreeSet::new();
        let mut sizes = Vec::new();
        for (path, content) in &self.files {
            let inside = path.strip_prefix("/").unwrap_or(path);
            let parents = inside.ancestors().skip(1).filter(|folder| folder.components().next().is_some());
            for folder in parents.collect::<Vec<_>>().into_iter().rev() {
                if folders.insert(folder.to_owned()) {
                    let mut header = header(tar::EntryType::Directory, 0o755, 0);
                    tar.append_data(&mut header, folder, std::io::empty())?;
                }
            }
            let stripped;
            let (source, mode) = match content {
                Content::WritableFolder => {
                    let mut header = header(tar::EntryType::Directory, 0o1777, 0);
                    tar.append_data(&mut header, inside, std::io::empty())?;
                    continue;
                }
                Content::Text(text) => {
                    append(&mut tar, inside, text.as_bytes())?;
                    sizes.push((path.clone(), text.len() as u64));
                    continue;
                }
                Content::Program(source) => (source, 0o755),
                Content::Stripped(source) => {
                    stripped = strip(source)?;
                    (&stripped.path().to_owned(), 0o755)
                }
                Content::File(source) => (source, 0o644),
            };
            let source = File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
            let size = source.metadata()?.len();
            let mut header = header(tar::EntryType::Regular, mode, size);
            tar.append_data(&mut header, inside, source)?;
            sizes.push((path.clone(), size));
        }
        Ok((sizes, HEXLOWER.encode(&tar.into_inner()?.hash.finalize())))
    }
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
    Ok(tar.append_data(&mut header, path, bytes)?)
}

/// Root's, and of no time: the same files give the same archive.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Writes, and digests what it writes.
struct Hashing<'a> {
    file: &'a File,
    hash: Sha256,
}

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A copy without debug information; the names of functions stay, for backtraces.
fn strip(program: &Path) -> Result<tempfile::NamedTempFile> {
    let copy = tempfile::NamedTempFile::new()?;
    let output = Command::new("strip").args(["--strip-debug", "-o"]).args([copy.path(), program]).output();
    let output = output.context("strip is missing, which makes images small: apt-get install -y binutils (as root)")?;
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "strip {}: {}", program.display(), complained.trim());
    Ok(copy)
}

/// As images name it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images for {other} are not made here"),
    }
}

/// The libraries that a program loads, its loader among them, at the paths where it looks for them; none for one that is
/// linked statically.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).env_remove("LD_LIBRARY_PATH").output();
    let output = output.context("ldd is missing, which says what goes into an image: it comes with the C library")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(complained.contains("not a dynamic executable"), "ldd {}: {complained}", program.display());
        return Ok(BTreeSet::new());
    }
    libraries_of(&said).with_context(|| program.display().to_string())
}

/// Reads what `ldd` says: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn libraries_of(said: &str) -> Result<BTreeSet<PathBuf>> {
    if let Some(missing) = said.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", missing.trim());
    }
    let paths = said.split_whitespace().map(Path::new).filter(|word| word.is_absolute());
    let is_plain = |path: &&Path| path.components().all(|part| !matches!(part, Component::ParentDir));
    Ok(paths.filter(is_plain).map(Path::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_a_library_and_what_the_kernel_brings_is_none() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_of(said).unwrap(), BTreeSet::from(expected));
        assert!(libraries_of("\tlibx.so.1 => not found\n").unwrap_err().to_string().contains("libx.so.1"));
        assert_eq!(libraries_of("\tstatically linked\n").unwrap(), BTreeSet::new());
    }

    #[test]
    fn the_same_files_give_the_same_archive_with_all_that_they_load() {
        let folder = tempfile::tempdir().unwrap();
        let me = std::env::current_exe().unwrap();
        let image = Image::new("a:b").user(USER).program(&me).unwrap();
        let (first, second) = (folder.path().join("1.tar"), folder.path().join("2.tar"));
        let written = image.write(&first).unwrap();
        image.write(&second).unwrap();
        assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
        let names: Vec<String> = written.files.iter().map(|(path, _)| path.display().to_string()).collect();
        for wanted in [format!("{PROGRAMS}/{}", me.file_name().unwrap().display()), "/etc/passwd".to_owned()] {
            assert!(names.contains(&wanted), "{names:?}");
        }
        assert!(names.iter().any(|name| name.contains("libc.so")), "{names:?}");
    }
}
