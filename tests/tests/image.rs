//! The two ways to the image, and the chart that runs it, agree. No registry is asked: what a builder would fetch is not checked.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fettle_tests::chart::Rendered;
use fettle_tests::dev::cluster::{IMAGE_PROGRAMS, fettle_image};
use fettle_tests::image::{PROGRAMS, USER};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// An instruction of a Dockerfile, and its words.
type Instruction = (String, Vec<String>);

/// The stages, each with its `FROM` first.
fn stages(dockerfile: &str) -> Vec<Vec<Instruction>> {
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in dockerfile.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace().map(str::to_owned);
        let Some(name) = words.next() else { continue };
        if name == "FROM" {
            stages.push(Vec::new());
        }
        if let Some(stage) = stages.last_mut() {
            stage.push((name, words.collect()));
        }
    }
    stages
}

/// The words of the one instruction of that name.
fn only<'a>(stage: &'a [Instruction], name: &str) -> Result<&'a [String]> {
    let mut found = stage.iter().filter(|(instruction, _)| instruction == name);
    match (found.next(), found.next()) {
        (Some((_, words)), None) => Ok(words),
        _ => anyhow::bail!("the stage does not have exactly one {name}: {stage:?}"),
    }
}

#[tokio::test]
async fn the_dockerfile_the_image_without_a_daemon_and_the_chart_agree() -> Result<()> {
    let ignored = fs::read_to_string(root().join(".dockerignore"))?;
    assert!(ignored.lines().any(|line| line == "target"), "gigabytes would be sent to the builder");
    let stages = stages(&fs::read_to_string(root().join("Dockerfile"))?);
    let [build, last] = stages.as_slice() else { anyhow::bail!("two stages were expected: {stages:?}") };

    // Built with the toolchain that is pinned, against the C library that the last stage has.
    let channel = fs::read_to_string(root().join("rust-toolchain.toml"))?;
    let channel =
        channel.lines().find_map(|line| line.strip_prefix("channel = ")).context("no channel")?.trim_matches('"');
    assert_eq!(only(build, "FROM")?, [&format!("rust:{channel}-bookworm"), "AS", "build"]);
    assert_eq!(only(build, "ENV")?, [format!("RUSTUP_TOOLCHAIN={channel}")]);
    assert_eq!(only(last, "FROM")?, ["gcr.io/distroless/cc-debian12:nonroot"]);

    // The programs that are built are those that are copied, those that `make images` takes, and those that the chart runs.
    let built = only(build, "RUN")?;
    for program in IMAGE_PROGRAMS {
        assert!(built.windows(2).any(|words| words == ["--package", program]), "{built:?} builds no {program}");
    }
    assert!(built.contains(&"--locked".to_owned()) && built.contains(&"--release".to_owned()), "{built:?}");
    let folder = &only(build, "WORKDIR")?[0];
    let (destination, sources) = only(last, "COPY")?.split_last().context("COPY of nothing")?;
    assert_eq!(destination.trim_end_matches('/'), PROGRAMS);
    let from: Vec<String> = IMAGE_PROGRAMS.iter().map(|name| format!("{folder}/target/release/{name}")).collect();
    assert_eq!(sources, [vec!["--from=build".to_owned()], from].concat());

    // Nobody but the chart says who runs what.
    let user = format!("{USER}:{USER}");
    assert_eq!(only(last, "USER")?, [user.as_str()]);
    assert!(!last.iter().any(|(name, _)| name == "ENTRYPOINT" || name == "CMD"), "{last:?}");
    let rendered = Rendered::new("any").await?;
    let mut run = BTreeSet::new();
    for pod in rendered.pod_specs()? {
        let security = pod.security_context.as_ref().context("a pod without securityContext")?;
        let runs_as = [security.run_as_user, security.run_as_group, security.fs_group];
        assert_eq!(runs_as, [Some(i64::from(USER)); 3]);
        for container in &pod.containers {
            run.extend(container.command.iter().flatten().take(1).cloned());
            assert_eq!(container.image.as_deref(), Some(fettle_tests::dev::cluster::image_name()?.as_str()));
        }
    }
    assert_eq!(run, IMAGE_PROGRAMS.map(str::to_owned).into_iter().collect());
    Ok(())
}

#[test]
fn the_image_holds_the_programs_the_c_library_certificates_and_a_user_and_nothing_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("fettle.tar");
    let written = fettle_image("fettle:test")?.write(&archive)?;
    let unexpected: Vec<_> = written
        .files
        .iter()
        .map(|(path, _)| path.display().to_string())
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_library = ["libc.", "libm.", "libgcc_s.", "ld-linux"].iter().any(|begin| name.starts_with(begin));
            let is_program = path.starts_with(PROGRAMS) && IMAGE_PROGRAMS.contains(&name);
            let is_data = ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ssl/certs/ca-certificates.crt"];
            !is_library && !is_program && !is_data.contains(&path.as_str())
        })
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");

    // as whoever loads it reads it
    let mut tar = tar::Archive::new(fs::File::open(&archive)?);
    let mut parts = std::collections::BTreeMap::new();
    for entry in tar.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut bytes = Vec::new();
        if name.ends_with(".json") {
            std::io::Read::read_to_end(&mut entry, &mut bytes)?;
        }
        parts.insert(name, bytes);
    }
    let manifest: Value = serde_json::from_slice(&parts["manifest.json"])?;
    assert_eq!(manifest[0]["RepoTags"][0], "fettle:test");
    let config: Value = serde_json::from_slice(&parts[manifest[0]["Config"].as_str().context("no config")?])?;
    assert_eq!(config["config"]["User"], format!("{USER}:{USER}"));
    assert!(config["config"]["Entrypoint"].is_null() && config["config"]["Cmd"].is_null());
    let path = config["config"]["Env"][0].as_str().and_then(|path| path.strip_prefix("PATH=")).context("no PATH")?;
    assert!(path.split(':').any(|folder| folder == PROGRAMS), "{path}");
    assert!(parts.contains_key("layer.tar"));
    Ok(())
}
