//! One control connection: who speaks, where it is, and what it is answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command::{Command, CommandError, ExtendedPassive, Mechanism, Protection, TransferType};
use super::control::{Control, ControlEnd};
use super::passive::{Passive, PassivePorts};
use super::transfer;
use super::wire::Wire;
use crate::files::credentials::{self, DeviceId, Login, Operation, Permission};
use crate::files::limits::Place;
use crate::files::logs::LogError;
use crate::files::metrics::{Outcome, Protocol};
use crate::files::server::Service;
use crate::files::store::Readable;
use crate::files::tls::Acceptor;

/// Wrong passwords on one connection. A device has its password from a message and does not mistype it.
const MAX_LOGIN_FAILURES: u32 = 3;

/// Whether the conversation goes on.
enum Next {
    Command,
    Close,
}

pub(super) struct Session {
    service: Arc<Service>,
    ports: Arc<PassivePorts>,
    /// Where there is a certificate.
    tls: Option<Acceptor>,
    /// After `PROT P`: data connections are within TLS.
    private: bool,
    control: Control,
    peer: IpAddr,
    local: SocketAddr,
    user: Option<String>,
    login: Option<(Login, Place<DeviceId>)>,
    login_failures: u32,
    /// Datum 6 or nothing: the only directories that there are.
    directory: Option<String>,
    /// Where the next transfer begins.
    restart: u64,
    /// A port that waits for its data connection, and until when.
    passive: Option<(Passive, Instant)>,
    /// After `EPSV ALL`.
    extended_only: bool,
}

impl Session {
    pub(super) fn new(
        stream: TcpStream,
        peer: IpAddr,
        service: Arc<Service>,
        ports: Arc<PassivePorts>,
        tls: Option<Acceptor>,
    ) -> std::io::Result<Self> {
        let local = stream.local_addr()?;
        Ok(Self {
            service,
            ports,
            tls,
            private: false,
            control: Control::new(stream)?,
            peer,
            local,
            user: None,
            login: None,
            login_failures: 0,
            directory: None,
            restart: 0,
            passive: None,
            extended_only: false,
        })
    }

    pub(super) async fn run(mut self, stop: &CancellationToken) {
        let ended = stop.run_until_cancelled(self.converse()).await;
        if ended.is_none() {
            let _ = self.control.reply("421 The server is stopping.").await;
        }
        self.control.close().await;
    }

    async fn converse(&mut self) {
        let end = match self.commands().await {
            Ok(()) => return,
            Err(end) => end,
        };
        let device = self.device();
        match end {
            ControlEnd::Closed => {}
            ControlEnd::TimedOut => {
                tracing::debug!(peer = %self.peer, device, "FTP connection idle for too long");
                let _ = self.control.reply("421 Nothing was asked for too long.").await;
            }
            ControlEnd::TooLong => {
                tracing::warn!(peer = %self.peer, device, "FTP command line too long");
                let _ = self.control.reply("500 The line is too long.").await;
            }
            ControlEnd::Broken(error) => {
                tracing::debug!(peer = %self.peer, device, %error, "FTP connection broken");
            }
        }
    }

    fn device(&self) -> Option<String> {
        self.login.as_ref().map(|(login, _)| login.device.to_string())
    }

    async fn commands(&mut self) -> Result<(), ControlEnd> {
        let deadlines = self.service.config.deadlines;
        let login_until = Instant::now() + deadlines.login;
        self.control.reply("220 Fettle file server.").await?;
        loop {
            let until = if self.login.is_some() { Instant::now() + deadlines.idle } else { login_until };
            let line = self.line(until).await?;
            let next = match Command::parse(&line) {
                Ok(command) if self.login.is_none() => self.before_login(command).await?,
                Ok(command) => self.execute(command).await?,
                Err(CommandError::NotImplemented) => self.answer("502 There is no such command here.").await?,
                Err(CommandError::Argument) => self.answer("501 The argument is missing or not of its form.").await?,
            };
            match next {
                Next::Command => {}
                Next::Close => return Ok(()),
            }
        }
    }

    /// The next line. A data port that nobody uses is given back meanwhile.
    async fn line(&mut self, until: Instant) -> Result<String, ControlEnd> {
        if let Some((_, passive_until)) = self.passive {
            match self.control.line(until.min(passive_until)).await {
                Err(ControlEnd::TimedOut) => self.passive = None,
                line => return line,
            }
        }
        self.control.line(until).await
    }

    async fn answer(&mut self, reply: &str) -> Result<Next, ControlEnd> {
        self.control.reply(reply).await?;
        Ok(Next::Command)
    }

    async fn before_login(&mut self, command: Command) -> Result<Next, ControlEnd> {
        match command {
            Command::Pass(password) => self.pass(&password).await,
            Command::User(_)
            | Command::Quit
            | Command::Noop
            | Command::System
            | Command::Features
            | Command::Options(_)
            | Command::Help
            | Command::Authentication(_)
            | Command::ProtectionBufferSize
            | Command::Protection(_)
            | Command::ActiveMode => self.execute(command).await,
            Command::Type(_)
            | Command::Mode { .. }
            | Command::Structure { .. }
            | Command::Passive
            | Command::ExtendedPassive(_)
            | Command::ChangeDirectory(_)
            | Command::ToParent
            | Command::PrintDirectory
            | Command::Size(_)
            | Command::ModificationTime(_)
            | Command::Restart(_)
            | Command::Retrieve(_)
            | Command::Store(_)
            | Command::List
            | Command::NameList
            | Command::Abort
            | Command::Allocate => self.answer("530 Log in with USER and PASS.").await,
        }
    }

    async fn execute(&mut self, command: Command) -> Result<Next, ControlEnd> {
        match command {
            Command::User(user) => {
                self.user = Some(user);
                self.login = None;
                self.directory = None;
                self.answer("331 Give the password.").await
            }
            Command::Pass(_) => self.answer("503 Give a user first.").await,
            Command::Type(TransferType::Bytes) | Command::Mode { known: true } | Command::Structure { known: true } => {
                self.answer("200 Files are sent as they are.").await
            }
            Command::Type(TransferType::Unknown)
            | Command::Mode { known: false }
            | Command::Structure { known: false } => self.answer("504 Not for this parameter.").await,
            Command::Passive => self.passive().await,
            Command::ExtendedPassive(kind) => self.extended_passive(kind).await,
            Command::ChangeDirectory(path) => self.change_directory(&path).await,
            Command::ToParent => {
                self.directory = None;
                self.answer("250 In /.").await
            }
            Command::PrintDirectory => {
                let reply = format!("257 \"/{}\" is the directory.", self.directory.as_deref().unwrap_or_default());
                self.answer(&reply).await
            }
            Command::Size(path) => match self.readable(&path).await {
                Ok((_, readable)) => self.answer(&format!("213 {}", readable.size())).await,
                Err(outcome) => self.answer(refusal(outcome)).await,
            },
            // Each command names its file anew, so a client that fetches only what is newer than its copy has to fetch it.
            Command::ModificationTime(path) => match self.readable(&path).await {
                Ok(_) => self.answer(&format!("213 {}", Timestamp::now().strftime("%Y%m%d%H%M%S"))).await,
                Err(outcome) => self.answer(refusal(outcome)).await,
            },
            Command::Restart(offset) => {
                self.restart = offset;
                self.answer(&format!("350 The next transfer begins at {offset}.")).await
            }
            Command::Retrieve(path) => self.retrieve(&path).await,
            Command::Store(path) => self.store(&path).await,
            Command::List | Command::NameList => self.list().await,
            Command::Abort => {
                self.passive = None;
                self.answer("226 Nothing was under way.").await
            }
            Command::Noop => self.answer("200 Well.").await,
            Command::System => self.answer("215 UNIX Type: L8").await,
            Command::Features => {
                let tls = if self.tls.is_some() { " AUTH TLS\r\n PBSZ\r\n PROT\r\n" } else { "" };
                let rest = " EPSV\r\n MDTM\r\n PASV\r\n REST STREAM\r\n SIZE\r\n UTF8\r\n";
                self.answer(&format!("211-Features:\r\n{tls}{rest}211 End")).await
            }
            Command::Authentication(mechanism) => self.authentication(mechanism).await,
            Command::ProtectionBufferSize if self.control.is_secure() => self.answer("200 PBSZ=0").await,
            Command::Protection(Protection::Private | Protection::Clear) | Command::ProtectionBufferSize
                if !self.control.is_secure() =>
            {
                self.answer("503 Give AUTH TLS first.").await
            }
            Command::Protection(protection @ (Protection::Private | Protection::Clear)) => {
                self.private = protection == Protection::Private;
                self.answer("200 So be it.").await
            }
            Command::Protection(Protection::Unknown) => self.answer("536 Use P, or C.").await,
            Command::ProtectionBufferSize => self.answer("200 PBSZ=0").await,
            Command::Options(option) => match option.trim().to_ascii_uppercase().as_str() {
                "UTF8" | "UTF8 ON" => self.answer("200 UTF-8 it is.").await,
                _ => self.answer("501 There is no such option.").await,
            },
            Command::Allocate => self.answer("202 Not needed.").await,
            Command::Help => self.answer("214 See docs/protocol.md of Fettle.").await,
            Command::Quit => {
                self.control.reply("221 Goodbye.").await?;
                Ok(Next::Close)
            }
            Command::ActiveMode => self.answer("502 The server does not connect to clients: use PASV or EPSV.").await,
        }
    }

    /// Whoever logged in in the clear has to do it anew.
    async fn authentication(&mut self, mechanism: Mechanism) -> Result<Next, ControlEnd> {
        let tls = match (&self.tls, mechanism) {
            (None, _) => return self.answer("502 There is no such command here.").await,
            (Some(_), _) if self.control.is_secure() => return self.answer("503 It is done.").await,
            (Some(_), Mechanism::Unknown) => return self.answer("504 Only AUTH TLS.").await,
            (Some(tls), Mechanism::Tls) => tls.now(),
        };
        (self.user, self.login, self.directory, self.passive) = (None, None, None, None);
        self.control.reply("234 Begin TLS.").await?;
        self.control.secure(&tls).await?;
        Ok(Next::Command)
    }

    async fn pass(&mut self, password: &str) -> Result<Next, ControlEnd> {
        let Some(user) = self.user.take() else { return self.answer("503 Give a user first.").await };
        match self.service.credentials.check_login(&user, password, Timestamp::now()) {
            Ok(login) => match self.service.devices.take(login.device) {
                Some(place) => {
                    tracing::debug!(peer = %self.peer, device = %login.device, command = login.command, "FTP login");
                    self.login = Some((login, place));
                    self.answer("230 Logged in.").await
                }
                None => {
                    tracing::warn!(peer = %self.peer, device = %login.device, "FTP login refused: too many connections");
                    self.control.reply("421 Too many connections of this device.").await?;
                    Ok(Next::Close)
                }
            },
            Err(refusal) => {
                self.login_failures += 1;
                self.service.metrics.login_refused();
                tracing::info!(peer = %self.peer, %refusal, "FTP login refused");
                if self.login_failures < MAX_LOGIN_FAILURES {
                    return self.answer("530 Login incorrect.").await;
                }
                self.control.reply("421 Login incorrect, too often.").await?;
                Ok(Next::Close)
            }
        }
    }

    async fn passive(&mut self) -> Result<Next, ControlEnd> {
        if self.extended_only || !self.local.ip().to_canonical().is_ipv4() {
            return self.answer("522 Use EPSV.").await;
        }
        let Some(port) = self.listen().await else { return self.answer("425 No data port is free: try again.").await };
        let [a, b, c, d] = self.service.config.advertise.octets();
        let (high, low) = (port >> 8, port & 0xff);
        self.answer(&format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low}).")).await
    }

    async fn extended_passive(&mut self, kind: ExtendedPassive) -> Result<Next, ControlEnd> {
        let ours = if self.local.ip().to_canonical().is_ipv4() { 1 } else { 2 };
        match kind {
            ExtendedPassive::All => {
                self.extended_only = true;
                return self.answer("200 EPSV only.").await;
            }
            ExtendedPassive::Family(family) if family != ours => {
                return self.answer(&format!("522 Only the protocol of this connection: use ({ours}).")).await;
            }
            ExtendedPassive::Family(_) | ExtendedPassive::Same => {}
        }
        let Some(port) = self.listen().await else { return self.answer("425 No data port is free: try again.").await };
        self.answer(&format!("229 Entering Extended Passive Mode (|||{port}|).")).await
    }

    async fn listen(&mut self) -> Option<u16> {
        self.passive = None;
        let listening = self.ports.listen().await;
        let listening = listening.and_then(|passive| Ok((passive.port()?, passive)));
        match listening {
            Ok((port, passive)) => {
                self.passive = Some((passive, Instant::now() + self.service.config.deadlines.data_connection));
                Some(port)
            }
            Err(error) => {
                tracing::warn!(device = self.device(), %error, "no FTP data port");
                None
            }
        }
    }

    /// A directory cannot be judged before the file in it is asked for: by its form it can be one.
    async fn change_directory(&mut self, path: &str) -> Result<Next, ControlEnd> {
        let mut directory = if path.starts_with('/') { None } else { self.directory.clone() };
        for component in path.trim_end().split('/') {
            match component {
                "" | "." => {}
                ".." => directory = None,
                part if credentials::is_part(part) => directory = Some(part.to_owned()),
                _ => return self.answer("550 No such directory.").await,
            }
        }
        self.directory = directory;
        self.answer("250 The directory is changed.").await
    }

    /// What the paths that a client can mean allow: within its directory, or as it stands.
    fn authorise(&self, path: &str, operation: Operation) -> Result<Permission, Outcome> {
        let login = self.login.as_ref().map(|(login, _)| *login).ok_or(Outcome::Refused)?;
        let path = path.trim_end();
        let path = match &self.directory {
            Some(directory) if path.len() <= credentials::PART_LEN + "./".len() => format!("{directory}/{path}"),
            _ => path.to_owned(),
        };
        self.service.authorise(Protocol::Ftp, &path, operation, Some(login)).map_err(|_| Outcome::Refused)
    }

    async fn readable(&self, path: &str) -> Result<(Permission, Readable), Outcome> {
        let permission = self.authorise(path, Operation::Download)?;
        Ok((permission, self.service.open(Protocol::Ftp, &permission).await?))
    }

    async fn retrieve(&mut self, path: &str) -> Result<Next, ControlEnd> {
        let offset = std::mem::take(&mut self.restart);
        let (permission, readable) = match self.readable(path).await {
            Ok(opened) => opened,
            Err(outcome) => return self.answer(refusal(outcome)).await,
        };
        if offset > readable.size() {
            return self.answer("550 The file ends before that.").await;
        }
        let Some(data) = self.data_connection().await? else { return Ok(Next::Command) };
        self.control
            .reply(&format!("150 Sending {} bytes ({} bytes).", readable.size() - offset, readable.size()))
            .await?;

        let Some(data) = self.secured(data).await? else { return Ok(Next::Command) };
        let service = Arc::clone(&self.service);
        let sending = transfer::send(&service, &permission, &readable, offset, data);
        let outcome = tokio::select! {
            outcome = sending => outcome,
            () = self.control.abort() => {
                self.control.reply("426 The transfer was aborted.").await?;
                return self.answer("226 Aborted.").await;
            }
            () = tokio::time::sleep(permission.remaining(Timestamp::now())) => {
                return self.answer("426 The time for this file is over.").await;
            }
        };
        self.answer(match outcome {
            Outcome::Complete => "226 The file was sent.",
            Outcome::Aborted => "426 The data connection broke.",
            Outcome::TimedOut => "426 The data connection stood still for too long.",
            other => refusal(other),
        })
        .await
    }

    async fn store(&mut self, path: &str) -> Result<Next, ControlEnd> {
        let restart = std::mem::take(&mut self.restart);
        let permission = match self.authorise(path, Operation::Upload) {
            Ok(permission) => permission,
            Err(outcome) => return self.answer(refusal(outcome)).await,
        };
        if restart > 0 {
            return self.answer("554 An upload begins at its beginning.").await;
        }
        let upload = match self.service.logs.begin(&permission).await {
            Ok(upload) => upload,
            Err(error) => {
                let outcome = Outcome::of_log_error(&error);
                tracing::warn!(device = %permission.device, command = permission.command, %error, "upload refused");
                self.service.metrics.refused(Protocol::Ftp, Operation::Upload, outcome);
                return self.answer(upload_refusal(&error)).await;
            }
        };
        let Some(data) = self.data_connection().await? else { return Ok(Next::Command) };
        self.control.reply("150 Send the file.").await?;

        let Some(data) = self.secured(data).await? else { return Ok(Next::Command) };
        let service = Arc::clone(&self.service);
        let receiving = transfer::receive(&service, &permission, upload, data);
        let received = tokio::select! {
            received = receiving => received,
            () = self.control.abort() => {
                self.control.reply("426 The transfer was aborted.").await?;
                return self.answer("226 Aborted.").await;
            }
            () = tokio::time::sleep(permission.remaining(Timestamp::now())) => {
                return self.answer("426 The time for this file is over.").await;
            }
        };
        match received {
            Ok(()) => self.answer("226 The file is stored.").await,
            Err(transfer::ReceiveError::Peer) => self.answer("426 The data connection broke.").await,
            Err(transfer::ReceiveError::Stalled) => {
                self.answer("426 The data connection stood still for too long.").await
            }
            Err(transfer::ReceiveError::Store(error, data)) => {
                self.control.reply(upload_refusal(&error)).await?;
                transfer::drain(&service, data).await;
                Ok(Next::Command)
            }
        }
    }

    /// A device is told what it may fetch; there is nothing to look around for. Clients that list before they fetch are content
    /// with an empty directory.
    async fn list(&mut self) -> Result<Next, ControlEnd> {
        let Some(data) = self.data_connection().await? else { return Ok(Next::Command) };
        self.control.reply("150 The directory follows.").await?;
        let Some(mut data) = self.secured(data).await? else { return Ok(Next::Command) };
        // A peer that does not take even that is gone.
        let _ = tokio::time::timeout(self.service.config.deadlines.data_connection, data.shutdown()).await;
        drop(data);
        self.answer("226 That was all.").await
    }

    /// The data connection, within TLS where the client wants that. `None`: it could not be, and the client has been told.
    async fn secured(&mut self, data: TcpStream) -> Result<Option<Wire>, ControlEnd> {
        let data = Wire::Plain(data);
        let Some(tls) = self.tls.as_ref().filter(|_| self.private).map(Acceptor::now) else { return Ok(Some(data)) };
        let handshake = data.secured(&tls);
        match tokio::time::timeout(self.service.config.deadlines.data_connection, handshake).await {
            Ok(Ok(data)) => Ok(Some(data)),
            Ok(Err(error)) => {
                tracing::info!(device = self.device(), %error, "no TLS on an FTP data connection");
                self.control.reply("522 The data connection does not speak TLS.").await?;
                Ok(None)
            }
            Err(_) => {
                self.control.reply("522 The data connection does not speak TLS.").await?;
                Ok(None)
            }
        }
    }

    /// The data connection. `None`: there is none, and the client has been told.
    async fn data_connection(&mut self) -> Result<Option<TcpStream>, ControlEnd> {
        let Some((passive, _)) = self.passive.take() else {
            self.control.reply("425 Use PASV or EPSV first.").await?;
            return Ok(None);
        };
        match passive.accept(self.peer, self.service.config.deadlines.data_connection).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => {
                tracing::info!(device = self.device(), %error, "no FTP data connection");
                self.control.reply("425 No data connection came.").await?;
                Ok(None)
            }
        }
    }
}

fn refusal(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Refused | Outcome::NotFound => "550 No such file.",
        Outcome::Full => "452 There is no room.",
        Outcome::TooLarge => "552 The file is too large.",
        Outcome::Complete | Outcome::Aborted | Outcome::TimedOut | Outcome::Failed => "451 The server has a fault.",
    }
}

fn upload_refusal(error: &LogError) -> &'static str {
    match error {
        LogError::NotExpected => "550 No such file is expected.",
        LogError::TooLarge { .. } => "552 The file is too large.",
        LogError::Full { .. } | LogError::DiskFull => "452 There is no room.",
        LogError::Busy => "450 Too many uploads: try again.",
        LogError::Io(_) => "451 The server has a fault.",
    }
}
