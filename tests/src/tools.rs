//! Where kube-apiserver, etcd, kubectl and the other foreign programs come from.
//!
//! Each is looked for in `KUBEBUILDER_ASSETS` (the variable that Kubernetes' own test tools use), then in the cache,
//! and else built once from the Go module of `tools/` that pins it. The cache lies outside the checkout, so other
//! checkouts reuse it; its key is the content of `go.mod` and `go.sum` and the build's flags, so a changed pin is a
//! new folder and never a stale program. This module builds and finds; it starts nothing.

use std::env;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::say;

/// A program of somebody else's that the harness starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Etcd,
    KubeApiServer,
    KubeControllerManager,
    Kubectl,
    Helm,
    /// Flux' own, which applies what a Git repository declares.
    KustomizeController,
    /// From here on, what only a node needs.
    Kubelet,
    KubeScheduler,
    KubeProxy,
    CoreDns,
}

impl Tool {
    /// All of them, in the order in which a cold build makes them: what fails, fails early.
    pub const ALL: [Tool; 10] = [
        Tool::Etcd,
        Tool::Kubectl,
        Tool::KubeApiServer,
        Tool::KubeControllerManager,
        Tool::Helm,
        Tool::KustomizeController,
        Tool::Kubelet,
        Tool::KubeScheduler,
        Tool::KubeProxy,
        Tool::CoreDns,
    ];

    /// The name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Etcd => "etcd",
            Tool::KubeApiServer => "kube-apiserver",
            Tool::KubeControllerManager => "kube-controller-manager",
            Tool::Kubectl => "kubectl",
            Tool::Helm => "helm",
            Tool::KustomizeController => "kustomize-controller",
            Tool::Kubelet => "kubelet",
            Tool::KubeScheduler => "kube-scheduler",
            Tool::KubeProxy => "kube-proxy",
            Tool::CoreDns => "coredns",
        }
    }

    /// Whether only a node needs it.
    pub fn is_of_a_node(self) -> bool {
        match self {
            Tool::Etcd
            | Tool::KubeApiServer
            | Tool::KubeControllerManager
            | Tool::Kubectl
            | Tool::Helm
            | Tool::KustomizeController => false,
            Tool::Kubelet | Tool::KubeScheduler | Tool::KubeProxy | Tool::CoreDns => true,
        }
    }

    /// Whether it can be built here: what a node runs is for Linux alone.
    pub fn is_for_this_system(self) -> bool {
        !self.is_of_a_node() || cfg!(target_os = "linux")
    }

    /// The folder under `tools/` whose `go.mod` pins it.
    fn module(self) -> &'static str {
        match self {
            Tool::Etcd => "etcd",
            Tool::KubeApiServer
            | Tool::KubeControllerManager
            | Tool::Kubectl
            | Tool::Kubelet
            | Tool::KubeScheduler
            | Tool::KubeProxy => "kubernetes",
            Tool::Helm => "helm",
            Tool::KustomizeController => "flux",
            Tool::CoreDns => "coredns",
        }
    }

    /// What to build, and the Go module that it belongs to, whose version is the program's.
    fn package(self) -> (&'static str, &'static str) {
        match self {
            Tool::Etcd => ("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
            Tool::KubeApiServer => ("k8s.io/kubernetes/cmd/kube-apiserver", "k8s.io/kubernetes"),
            Tool::KubeControllerManager => ("k8s.io/kubernetes/cmd/kube-controller-manager", "k8s.io/kubernetes"),
            Tool::Kubectl => ("k8s.io/kubernetes/cmd/kubectl", "k8s.io/kubernetes"),
            Tool::Helm => ("helm.sh/helm/v4/cmd/helm", "helm.sh/helm/v4"),
            Tool::KustomizeController => {
                ("github.com/fluxcd/kustomize-controller", "github.com/fluxcd/kustomize-controller")
            }
            Tool::Kubelet => ("k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes"),
            Tool::KubeScheduler => ("k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes"),
            Tool::KubeProxy => ("k8s.io/kubernetes/cmd/kube-proxy", "k8s.io/kubernetes"),
            // its module has a program of its own, which names the plugins
            Tool::CoreDns => ("fettle.dev/tools/coredns", "github.com/coredns/coredns"),
        }
    }

    /// A file of that Go module which whoever runs the program needs besides: the definitions of its API.
    fn definitions(self) -> Option<&'static str> {
        match self {
            Tool::KustomizeController => Some("config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"),
            Tool::Etcd
            | Tool::KubeApiServer
            | Tool::KubeControllerManager
            | Tool::Kubectl
            | Tool::Helm
            | Tool::Kubelet
            | Tool::KubeScheduler
            | Tool::KubeProxy
            | Tool::CoreDns => None,
        }
    }

    /// The linker's flags. Kubernetes reports the version that the linker writes into it, `v0.0.0` otherwise.
    fn linker_flags(self, version: &str) -> String {
        match self {
            Tool::Etcd | Tool::Helm | Tool::KustomizeController | Tool::CoreDns => "-s -w".to_owned(),
            Tool::KubeApiServer
            | Tool::KubeControllerManager
            | Tool::Kubectl
            | Tool::Kubelet
            | Tool::KubeScheduler
            | Tool::KubeProxy => {
                let mut numbers = version.trim_start_matches('v').split('.');
                let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
                let at = "k8s.io/component-base/version";
                format!("-s -w -X {at}.gitVersion={version} -X {at}.gitMajor={major} -X {at}.gitMinor={minor}")
            }
        }
    }

    /// What a person who waits should expect, on two cores and with nothing built before.
    fn expected_build_time(self) -> &'static str {
        match self {
            Tool::Etcd => "about half a minute",
            Tool::Kubectl => "about a minute",
            Tool::KubeApiServer => "about 3 minutes",
            Tool::KubeControllerManager => "about a minute",
            Tool::Helm => "about a minute and a half",
            Tool::KustomizeController => "about 4 minutes",
            Tool::Kubelet => "about a minute and a half",
            Tool::KubeScheduler | Tool::KubeProxy => "about half a minute",
            Tool::CoreDns => "about a minute",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The path of `tool`, after building it where it is nowhere yet.
///
/// Blocks, for minutes where it has to build; says so on standard error.
pub fn find(tool: Tool) -> Result<PathBuf> {
    if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS") {
        let path = Path::new(&assets).join(tool.name());
        if path.is_file() && (tool.definitions().is_none() || definitions_beside(&path).is_file()) {
            return Ok(path);
        }
    }
    let recipe = Recipe::read(tool)?;
    let program = recipe.folder.join(tool.name());
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&recipe.folder).with_context(|| format!("cannot make {}", recipe.folder.display()))?;
    let _lock = recipe.lock()?;
    // another process may have built it while this one waited for the lock
    if !program.is_file() {
        recipe.build(&program)?;
    }
    Ok(program)
}

/// The definitions of the API that `program`, which [`find`] found, serves.
pub fn definitions_beside(program: &Path) -> PathBuf {
    program.with_extension("crds.yaml")
}

/// The folder of what a node runs on and that is not built here: containerd, runc, CNI plugins, nft. Blocks while they are
/// fetched; says so on standard error.
pub fn packages_of_a_node() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/node");
    let output = Command::new(&script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(output.status.success(), "no containerd, runc, CNI plugins and nft: {} failed", script.display());
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Where this machine has a program, also for those whose `PATH` has no `sbin`.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Where a server of somebody else's is: unpacked by `tools/servers`, or installed.
pub fn server(program: &str) -> Result<PathBuf> {
    let folders =
        ["sbin", "bin"].map(|folder| cache().map(|cache| cache.join("servers/usr").join(folder).join(program)));
    let unpacked = folders.into_iter().flatten().find(|path| path.is_file());
    let found = unpacked.or_else(|| installed(program));
    found.with_context(|| format!("no {program}: tools/packages fetches it"))
}

/// How one tool is built, and the folder of the cache that its pins and flags lead to.
struct Recipe {
    tool: Tool,
    module: PathBuf,
    /// The oldest Go that the module admits.
    go: String,
    version: String,
    folder: PathBuf,
}

impl Recipe {
    fn read(tool: Tool) -> Result<Self> {
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools").join(tool.module());
        let read = |name: &str| {
            let path = module.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (go_mod, go_sum) = (read("go.mod")?, read("go.sum")?);
        let (_, owner) = tool.package();
        let version = required_version(&go_mod, owner)
            .with_context(|| format!("{}/go.mod requires no {owner}", module.display()))?;
        let go = go_mod.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1.26").to_owned();

        let mut parts = vec![go_mod, go_sum, tool.linker_flags(&version)];
        // most modules have no code
        parts.extend(fs::read_to_string(module.join("main.go")).ok());
        let mut hash = Sha256::new();
        for part in &parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut key = HEXLOWER.encode(&hash.finalize());
        key.truncate(16);
        let folder = cache()?.join("tools").join(format!("{}-{}-{key}", env::consts::OS, env::consts::ARCH));
        Ok(Recipe { tool, module, go, version, folder })
    }

    /// Held while building, so that two checkouts do not build the same thing at the same time.
    fn lock(&self) -> Result<File> {
        let path = self.folder.join(".lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say!("another process builds {}; waiting for it", self.folder.display());
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the cache of tools"),
        }
        Ok(file)
    }

    fn build(&self, program: &Path) -> Result<()> {
        let tool = self.tool;
        self.check_go()?;
        say!(
            "building {tool} {} from its Go module, once; {} on two cores, kept in {}",
            self.version,
            tool.expected_build_time(),
            self.folder.display()
        );
        let started = Instant::now();
        let unfinished = self.folder.join(format!(".{tool}.new"));
        let log_path = self.folder.join(format!("{tool}.build.log"));
        let log = File::create(&log_path)?;
        let (package, _) = tool.package();
        let built = self
            .go()
            .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags"])
            .arg(tool.linker_flags(&self.version))
            .arg("-o")
            .args([unfinished.as_path(), Path::new(package)])
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()?;
        if !built.success() {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let tail = crate::process::tail(&log, 15);
            bail!("building {tool} failed; the whole log is {}:\n{tail}", log_path.display());
        }
        if let Some(definitions) = tool.definitions() {
            self.copy_definitions(definitions, &definitions_beside(program))?;
        }
        fs::rename(&unfinished, program)?;
        say!("built {tool} in {} s", started.elapsed().as_secs());
        Ok(())
    }

    /// Go, in the folder of the module. A developer's own settings must not change what is built.
    fn go(&self) -> Command {
        let mut go = Command::new("go");
        go.current_dir(&self.module).env("GOFLAGS", "").env("GOWORK", "off").stdin(Stdio::null());
        go
    }

    /// From where Go has just put the module's source, whose content `go.sum` pins.
    fn copy_definitions(&self, file: &str, to: &Path) -> Result<()> {
        let (_, owner) = self.tool.package();
        let listed = self.go().args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", owner]).output()?;
        let folder = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
        ensure!(
            listed.status.success() && !folder.is_empty(),
            "Go does not say where {owner} is: {}",
            String::from_utf8_lossy(&listed.stderr)
        );
        let from = Path::new(&folder).join(file);
        let definitions = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        // written, and not copied: Go's own copy is read-only
        fs::write(to, definitions).with_context(|| format!("cannot write {}", to.display()))
    }

    fn check_go(&self) -> Result<()> {
        let need = &self.go;
        let found = Command::new("go").args(["env", "GOVERSION"]).current_dir(env::temp_dir()).output();
        let Ok(found) = found else {
            bail!(
                "Go is missing, which builds {}: install Go {need} or newer from https://go.dev/dl/ (or let \
                 KUBEBUILDER_ASSETS name a folder that has the program)",
                self.tool
            );
        };
        let version = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        // From 1.21 on, Go fetches the newer toolchain that a go.mod asks for by itself.
        let numbers: Vec<u32> = version.trim_start_matches("go").split('.').map_while(|n| n.parse().ok()).collect();
        ensure!(
            numbers.as_slice() >= [1, 21].as_slice(),
            "Go is too old ({version}) to build {}: install Go {need} or newer from https://go.dev/dl/",
            self.tool
        );
        Ok(())
    }
}

/// The version of `module` in the text of a `go.mod`.
fn required_version(go_mod: &str, module: &str) -> Option<String> {
    go_mod.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        let version = line.strip_prefix(module)?.strip_prefix(' ')?.split(' ').next()?;
        version.starts_with('v').then(|| version.to_owned())
    })
}

/// `FETTLE_CACHE`, or `fettle` in the user's cache folder.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("FETTLE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("fettle")))
        .or_else(|| Some(set("HOME")?.join(".cache/fettle")))
        .context("nowhere to keep built tools: set FETTLE_CACHE, XDG_CACHE_HOME or HOME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned_by_its_module() {
        for tool in Tool::ALL {
            let recipe = Recipe::read(tool).unwrap();
            assert!(recipe.version.starts_with('v'), "{tool}: {}", recipe.version);
            let go_mod = fs::read_to_string(recipe.module.join("go.mod")).unwrap();
            let (package, _) = tool.package();
            assert!(go_mod.contains(package), "{tool}: go.mod has no tool line for {package}");
        }
    }

    #[test]
    fn kubernetes_is_told_the_version_that_go_mod_pins() {
        let flags = Tool::Kubectl.linker_flags("v1.36.3");
        assert!(flags.contains("gitVersion=v1.36.3") && flags.contains("gitMajor=1") && flags.contains("gitMinor=36"));
    }

    #[test]
    fn a_version_is_read_from_a_single_line_and_from_a_block() {
        let go_mod =
            "require a.b/c v1.2.3 // indirect\nrequire (\n\ta.b/c/d v2.0.0\n)\nreplace x.y/z => x.y/z v0.1.0\n";
        assert_eq!(required_version(go_mod, "a.b/c").as_deref(), Some("v1.2.3"));
        assert_eq!(required_version(go_mod, "a.b/c/d").as_deref(), Some("v2.0.0"));
        assert_eq!(required_version(go_mod, "x.y/z"), None);
    }
}
