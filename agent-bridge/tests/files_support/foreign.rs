//! Other people's file servers, on free loopback ports, over a folder. They end with what holds them. `tools/servers` puts
//! the programs where they are looked for.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No server takes as long to begin.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Foreign {
    pub address: SocketAddr,
    command: Command,
    child: Child,
    _config: Option<TempDir>,
}

impl Foreign {
    /// vsftpd, which serves `folder` to the user `ftp` with this password. It lets it write and delete there. `config` is what
    /// its configuration says besides.
    pub fn vsftpd(folder: &Path, password: &str, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        let passwords = dir.path().join("passwords");
        std::fs::write(&passwords, format!("{password}\n")).unwrap();
        let user = succeeded(Command::new("id").arg("-un"));
        let address = free();
        // One of the system's users is its anonymous one, so that neither users nor PAM are needed.
        let text = format!(
            "listen=YES\nlisten_address={}\nlisten_port={}\nbackground=NO\nrun_as_launching_user=YES\nftp_username={user}\n\
             anonymous_enable=YES\nlocal_enable=NO\nwrite_enable=YES\nanon_upload_enable=YES\nanon_mkdir_write_enable=YES\n\
             anon_other_write_enable=YES\nanon_world_readable_only=NO\nanon_umask=022\nfile_open_mode=0644\nanon_root={}\n\
             secure_chroot_dir={}\nsecure_email_list_enable=YES\nemail_password_file={}\nseccomp_sandbox=NO\n\
             xferlog_enable=NO\nmdtm_write=NO\n{config}\n",
            address.ip(),
            address.port(),
            folder.display(),
            empty.display(),
            passwords.display(),
        );
        let file = dir.path().join("vsftpd.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program("vsftpd"));
        command.arg(&file);
        Self::over_tcp(address, command, dir)
    }

    /// Ends it, with all that it does.
    pub fn stop(&mut self) {
        // With the processes that it made for its clients.
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Begins again on the same port, after it was stopped.
    pub fn start_again(&mut self) {
        self.child = start(&mut self.command);
        let address = self.address;
        self.wait(|| std::net::TcpStream::connect(address).is_ok());
    }

    /// tftpd-hpa, which serves `folder`, and lets it be written to. It changes its root to it, which takes root.
    pub fn tftpd_hpa(folder: &Path) -> Self {
        let address = free();
        let mut command = Command::new(program("in.tftpd"));
        command.args(["-L", "--secure", "--create", "--user", "root", "--address", &address.to_string()]).arg(folder);
        Self::over_tftp(address, command)
    }

    /// atftpd, which serves `folder`.
    pub fn atftpd(folder: &Path) -> Self {
        let address = free();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = Command::new(program("atftpd"));
        command.args(["--daemon", "--no-fork", "--user", "root", "--group", "root"]);
        command.args(["--bind-address", &ip, "--port", &port]).arg(folder);
        Self::over_tftp(address, command)
    }

    /// nginx, with these servers. `LISTEN` in them stands for the address that is asked, which is a free one.
    pub fn nginx(servers: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free();
        // One process, which stays who started it, and writes nowhere else.
        let text = format!(
            "daemon off;\nmaster_process off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {{}}\nhttp {{\n\
             access_log {dir}/access.log;\nclient_body_temp_path {dir};\nproxy_temp_path {dir};\nfastcgi_temp_path {dir};\n\
             uwsgi_temp_path {dir};\nscgi_temp_path {dir};\n{}\n}}\n",
            servers.replace("LISTEN", &address.to_string()),
            dir = dir.path().display(),
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program("nginx"));
        command.arg("-p").arg(dir.path()).args(["-e", "error.log", "-c"]).arg(&file);
        Self::over_tcp(address, command, dir)
    }

    /// Debian's docker-registry, over https with this certificate and key, for the user `fettle` with the password `pa55`.
    pub fn docker_registry(certificate: &Path, key: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free();
        let passwords = dir.path().join("passwords");
        // htpasswd -Bbn fettle pa55
        let password = "fettle:$2y$05$u2MpLGvuPgIzkKJjTQ1BNu0NNvc1vcxs4lFR1l8kIitZGH/WrhInm\n";
        std::fs::write(&passwords, password).unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\", tls: {{certificate: {}, key: {}}}}}\n\
             auth: {{htpasswd: {{realm: fettle, path: {}}}}}\n",
            dir.path().join("data").display(),
            certificate.display(),
            key.display(),
            passwords.display(),
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program("docker-registry"));
        command.stderr(Stdio::null()).arg("serve").arg(&file);
        Self::over_tcp(address, command, dir)
    }

    fn over_tcp(address: SocketAddr, mut command: Command, config: TempDir) -> Self {
        let child = start(&mut command);
        let mut server = Self { address, command, child, _config: Some(config) };
        server.wait(|| std::net::TcpStream::connect(address).is_ok());
        server
    }

    fn over_tftp(address: SocketAddr, mut command: Command) -> Self {
        let child = start(&mut command);
        let mut server = Self { address, command, child, _config: None };
        // What is there answers, if only that it has no such file.
        server.wait(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket.send_to(b"\0\x01nothing\0octet\0", address).unwrap();
            socket.recv_from(&mut [0; 600]).is_ok()
        });
        server
    }

    fn wait(&mut self, is_up: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_up() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the server on {} has ended: {status}", self.address);
            }
            assert!(begun.elapsed() < PATIENCE, "nothing answers on {}", self.address);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start(command: &mut Command) -> Child {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn();
    child.unwrap_or_else(|error| panic!("{command:?} cannot be started ({error}): run tools/packages"))
}

/// Where a server's program is: where `tools/servers` unpacks it, or in the path.
pub fn program(name: &str) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("FETTLE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("fettle")))
        .or_else(|| Some(set("HOME")?.join(".cache/fettle")));
    let servers = cache.map(|cache| cache.join("servers/usr"));
    let unpacked = ["sbin", "bin"].map(|folder| Some(servers.as_ref()?.join(folder).join(name)));
    unpacked.into_iter().flatten().find(|path| path.exists()).unwrap_or_else(|| name.into())
}

/// A port that nobody has, below those that the system gives away by itself, for TCP as for UDP.
fn free() -> SocketAddr {
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(15_000..32_000)));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

fn succeeded(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
