//! Which process on which machine, and whether it is still there.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A process, told from every other one on every other machine as well as the system allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// The machine's name.
    pub host: String,
    /// Tells two boots of it apart, and two machines of one name.
    #[serde(default)]
    pub boot: Option<String>,
    /// The process's number.
    pub pid: u32,
    /// When it started, in ticks since the boot: numbers are used again.
    #[serde(default)]
    pub started: Option<u64>,
}

/// What can be told of a process from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It runs on this machine.
    Running,
    /// It ran on this machine, and is gone.
    Gone,
    /// It is this process.
    Own,
    /// It ran on another machine, or on this one before it was started anew.
    Elsewhere,
}

impl ProcessId {
    /// This process.
    pub(crate) fn current() -> Self {
        let pid = std::process::id();
        Self { host: host(), boot: boot(), pid, started: started(pid) }
    }

    /// What can be told of it from `here`.
    pub(crate) fn presence(&self, here: &Self) -> Presence {
        if self.host != here.host || self.boot != here.boot {
            return Presence::Elsewhere;
        }
        if self == here {
            return Presence::Own;
        }
        if is_running(self.pid, self.started) { Presence::Running } else { Presence::Gone }
    }
}

/// The runs of this process that are under way.
static RUNS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A run of this process that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct Running(String);

impl Running {
    /// Says that `run` is under way.
    pub(crate) fn start(run: &str) -> Self {
        RUNS.lock().unwrap_or_else(PoisonError::into_inner).insert(run.to_owned());
        Self(run.to_owned())
    }

    /// Whether `run` is under way in this process.
    pub(crate) fn is(run: &str) -> bool {
        RUNS.lock().unwrap_or_else(PoisonError::into_inner).contains(run)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Has the system forget the most memory that this process ever had; false, where it cannot.
pub(crate) fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most memory that this process had, in bytes; `None`, where the system does not tell.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

fn host() -> String {
    let file = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = file.ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok());
    name.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // Two containers of one machine may share its name; their process numbers mean different things.
    let space = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", id.trim(), space.display()))
}

/// The 22nd field of `/proc/PID/stat`; the second may hold spaces and ends with the last parenthesis.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

/// Where that cannot be told, a process is taken for running: its lease then ends by hand.
fn is_running(pid: u32, then: Option<u64>) -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let now = started(pid);
    now.is_some() && (then.is_none() || then == now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_others() {
        let here = ProcessId::current();
        assert_eq!(here.presence(&here), Presence::Own);
        let elsewhere = ProcessId { host: "elsewhere".to_owned(), ..here.clone() };
        assert_eq!(elsewhere.presence(&here), Presence::Elsewhere);
        let before = ProcessId { boot: Some("before".to_owned()), ..here.clone() };
        assert_eq!(before.presence(&here), Presence::Elsewhere);
        if cfg!(target_os = "linux") {
            let parent = std::os::unix::process::parent_id();
            let parent = ProcessId { pid: parent, started: started(parent), ..here.clone() };
            assert_eq!(parent.presence(&here), Presence::Running);
            let reused = ProcessId { started: Some(1), ..parent };
            assert_eq!(reused.presence(&here), Presence::Gone);
        }
    }

    #[test]
    fn a_run_is_under_way_until_it_is_dropped() {
        let running = Running::start("a-run");
        assert!(Running::is("a-run"));
        drop(running);
        assert!(!Running::is("a-run"));
    }
}
