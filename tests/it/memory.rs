//! Memory does not grow with the table.

use std::process::{Command, Stdio};

use crate::support::{Db, binary};

/// Megabytes that `command` had at most, as far as it was seen.
fn peak_mb(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kib.unwrap_or(0) / 1_000);
        std::thread::yield_now();
    }
    assert!(child.wait().unwrap().success());
    peak
}

/// Each thread that ever worked keeps some memory: there have to be few of them, however many files there are.
#[test]
fn many_files_need_no_more_than_a_few() {
    let db = Db::new();
    let size = ["--rows", "150000", "--dim", "384", "--fragments", "100"];
    db.relance("sample", "t", &size).expect(0);
    let mut command = Command::new(binary());
    let cast = ["--cast", "vector:fixed_size_list<halffloat>[384]", "--workers", "2"];
    let peak = peak_mb(command.arg("migrate").arg(db.path()).arg("t").args(cast));
    // 150 as measured; 300, when every thread that waits for the disk got work of the others.
    assert!((50..250).contains(&peak), "{peak} MB");
}
