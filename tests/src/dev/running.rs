//! Which processes `make up` left behind, and how `make down` ends them.
//!
//! A pid alone says little: the process may have ended, and its number be another's. So the program stands beside it, and
//! nothing is ended that is not that program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// What a bridge needs to say goodbye; then it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Ours are asked, and say goodbye to devices and API server.
    Asked,
    /// A control plane's are killed: what they know goes with them, and an API server would wait for its watchers.
    Killed,
}

impl Ending {
    const ALL: [Ending; 2] = [Ending::Asked, Ending::Killed];

    fn word(self) -> &'static str {
        match self {
            Ending::Asked => "ask",
            Ending::Killed => "kill",
        }
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    ending: Ending,
    pid: u32,
    program: PathBuf,
}

/// All of them, in the order in which they are to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Running {
    members: Vec<Member>,
}

impl Member {
    pub(super) fn new(name: &str, ending: Ending, pid: u32, program: &Path) -> Self {
        Member { name: name.to_owned(), ending, pid, program: program.to_owned() }
    }

    fn is_alive(&self) -> bool {
        // empty for one that has ended and that nobody has reaped
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        program == self.program.as_os_str().as_encoded_bytes()
    }

    fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid.cast_signed())
        {
            // Failing means that it has just ended.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Running {
    pub(super) fn new(members: Vec<Member>) -> Self {
        Running { members }
    }

    /// What was written by the last `make up`; nothing where there was none.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let Ok(text) = fs::read_to_string(file(folder)) else { return Ok(Self::default()) };
        parse(&text).with_context(|| format!("{} is damaged; end the processes by hand", file(folder).display()))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let line = |Member { name, ending, pid, program }: &Member| {
            format!("{pid} {} {name} {}\n", ending.word(), program.display())
        };
        let text: String = self.members.iter().map(line).collect();
        fs::write(file(folder), text).with_context(|| format!("cannot write {}", file(folder).display()))
    }

    pub(super) fn forget(folder: &Path) -> Result<()> {
        Ok(fs::remove_file(file(folder))?)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// One that has ended, where there is one.
    pub(super) fn dead(&self) -> Option<&Member> {
        self.members.iter().find(|member| !member.is_alive())
    }

    /// Separated by blanks.
    pub(super) fn pids(&self) -> String {
        let pids: Vec<String> = self.members.iter().map(|member| member.pid.to_string()).collect();
        pids.join(" ")
    }

    /// Ends one after the other, in order where it can be.
    pub(super) async fn end(&self) {
        for member in &self.members {
            match member.ending {
                Ending::Asked => member.signal(Signal::TERM),
                Ending::Killed => member.signal(Signal::KILL),
            }
            let deadline = Instant::now() + PATIENCE;
            while member.is_alive() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            member.signal(Signal::KILL);
        }
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("processes")
}

fn parse(text: &str) -> Option<Running> {
    let member = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let pid = words.next()?.parse().ok()?;
        let ending = words.next()?;
        let ending = Ending::ALL.into_iter().find(|known| known.word() == ending)?;
        Some(Member { pid, ending, name: words.next()?.to_owned(), program: PathBuf::from(words.next()?) })
    };
    Some(Running { members: text.lines().map(member).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Running::read(folder.path()).unwrap(), Running::default());
        let running = Running::new(vec![
            Member::new("a", Ending::Asked, 1, Path::new("/with blank/a")),
            Member::new("b", Ending::Killed, 2, Path::new("/b")),
        ]);
        running.write(folder.path()).unwrap();
        assert_eq!(Running::read(folder.path()).unwrap(), running);
        assert_eq!(running.pids(), "1 2");
        fs::write(file(folder.path()), "nonsense\n").unwrap();
        assert!(Running::read(folder.path()).is_err());
    }

    #[test]
    fn a_pid_that_is_another_programs_is_not_taken_for_ours() {
        let me = std::process::id();
        assert!(!Member::new("a", Ending::Asked, me, Path::new("/not/me")).is_alive());
        let program = std::env::args().next().unwrap();
        assert!(Member::new("a", Ending::Asked, me, Path::new(&program)).is_alive());
    }
}
