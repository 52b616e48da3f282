//! Which process on which machine, and whether it is still there.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A process, told from every other one on every other machine as well as the system allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub host: String,
    /// Tells two boots of it apart, and two machines of one name.
    #[serde(default)]
    pub boot: Option<String>,
    pub pid: u32,
    /// When it started, in ticks since the boot: numbers are used again.
    #[serde(default)]
    pub started: Option<u64>,
    /// Tells it from every other one for certain, though only to itself.
    #[serde(default)]
    pub instance: Option<Uuid>,
}

/// What can be told of a process from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It runs on this machine.
    Running,
    /// It ran on this machine, and is gone.
    Gone,
    Own,
    /// It ran on another machine, or on this one before it was started anew, or nobody here can tell.
    Elsewhere,
}

impl ProcessId {
    pub(crate) fn current() -> Self {
        static INSTANCE: OnceLock<Uuid> = OnceLock::new();
        let (pid, instance) = (std::process::id(), *INSTANCE.get_or_init(Uuid::new_v4));
        Self { host: host(), boot: boot(), pid, started: started(pid), instance: Some(instance) }
    }

    /// What can be told of it from `here`.
    pub(crate) fn presence(&self, here: &Self) -> Presence {
        if self.instance.is_some() && self.instance == here.instance {
            return Presence::Own;
        }
        // Names alone tell no two machines apart, and two without a name not at all.
        let same = self.boot.is_some() && self.boot == here.boot && self.host == here.host;
        if !same || self.host.is_empty() || self.host == NAMELESS {
            return Presence::Elsewhere;
        }
        match is_running(self.pid, self.started) {
            Some(true) => Presence::Running,
            Some(false) => Presence::Gone,
            None => Presence::Elsewhere,
        }
    }
}

/// What a machine without a name is called.
const NAMELESS: &str = "unknown";

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
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| NAMELESS.to_owned())
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

/// `None`, where that cannot be told: there is no `/proc`, or it hides others' processes.
fn is_running(pid: u32, then: Option<u64>) -> Option<bool> {
    match started(pid) {
        Some(now) => Some(then.is_none_or(|then| then == now)),
        // The first process always runs.
        None => started(1).map(|_| false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process of this machine.
    fn beside(here: &ProcessId) -> ProcessId {
        ProcessId { instance: Some(Uuid::nil()), ..here.clone() }
    }

    #[test]
    fn a_process_is_told_from_others() {
        let here = ProcessId::current();
        assert_eq!(here.presence(&here), Presence::Own);
        let elsewhere = ProcessId { host: "elsewhere".to_owned(), ..beside(&here) };
        assert_eq!(elsewhere.presence(&here), Presence::Elsewhere);
        let before = ProcessId { boot: Some("before".to_owned()), ..beside(&here) };
        assert_eq!(before.presence(&here), Presence::Elsewhere);
        if cfg!(target_os = "linux") {
            let here = ProcessId { host: "here".to_owned(), ..here };
            let first = ProcessId { pid: 1, started: started(1), ..beside(&here) };
            assert_eq!(first.presence(&here), Presence::Running);
            let reused = ProcessId { started: Some(u64::MAX), ..first };
            assert_eq!(reused.presence(&here), Presence::Gone);
        }
    }

    #[test]
    fn what_cannot_be_told_is_elsewhere() {
        // As on a system without `/proc`: same number, same name, no boot.
        let mac = ProcessId { host: "mac".to_owned(), boot: None, ..ProcessId::current() };
        assert_eq!(beside(&mac).presence(&mac), Presence::Elsewhere);
        assert_eq!(mac.presence(&mac), Presence::Own);
        // Two machines without a name.
        for host in ["", NAMELESS] {
            let nameless = ProcessId { host: host.to_owned(), ..ProcessId::current() };
            assert_eq!(beside(&nameless).presence(&nameless), Presence::Elsewhere);
        }
        // Written by an earlier release, that knew no instances.
        let text = r#"{"host":"mac","pid":7}"#;
        let early: ProcessId = serde_json::from_str(text).unwrap();
        assert_eq!(early.presence(&early.clone()), Presence::Elsewhere);
    }

    #[test]
    fn a_run_is_under_way_until_it_is_dropped() {
        let running = Running::start("a-run");
        assert!(Running::is("a-run"));
        drop(running);
        assert!(!Running::is("a-run"));
    }
}
