//! What a process has used: CPU time and its peak of memory, as the kernel accounts for them.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// What the kernel counts CPU time in, for each second: 100 on every architecture that we run on (`USER_HZ`).
const TICKS: f64 = 100.0;

/// A process that is measured.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) pid: u32,
}

/// What one process has used until now.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    /// The most memory that it ever had resident, in bytes.
    pub(super) peak_memory: u64,
}

impl Measured {
    pub(super) fn usage(&self) -> Result<Usage> {
        let pid = self.pid;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("{} is gone", self.name))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Ok(Usage {
            cpu_seconds: cpu_seconds(&stat).with_context(|| format!("/proc/{pid}/stat: {stat}"))?,
            peak_memory: peak_memory(&status).with_context(|| format!("/proc/{pid}/status has no VmHWM"))?,
        })
    }
}

/// `utime` and `stime` (proc(5), fields 14 and 15). The name before them may have anything in it but ends with the last
/// parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some((user + system) / TICKS)
}

fn peak_memory(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// CPU seconds that the whole machine has been busy, whoever made it so.
pub(super) fn machine_cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    busy_seconds(&stat).context("/proc/stat is not as it should be")
}

/// user, nice, system, idle, iowait, irq, softirq, steal (proc(5)). Time stolen by other machines is not ours to count.
fn busy_seconds(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map(str::parse::<f64>);
    let fields: Vec<f64> = fields.collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else { return None };
    Some((user + nice + system + irq + softirq) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_name_with_parentheses_in_it() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
    }

    #[test]
    fn the_peak_is_in_bytes() {
        assert_eq!(peak_memory("Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(peak_memory("Name:\ta\n"), None);
    }

    #[test]
    fn a_machine_is_busy_but_for_idle_and_waiting() {
        assert_eq!(busy_seconds("cpu  100 100 100 5000 5000 50 50 9 0 0\ncpu0 1"), Some(4.0));
    }
}
