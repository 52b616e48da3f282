//! The shell examples of the papers run, and print what the papers show.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{binary, run};

#[test]
fn shell_examples_print_what_is_shown() {
    for page in ["README.md", "src/guide/quick_start.md"] {
        let folder = tempfile::tempdir().unwrap();
        let examples = examples(&read(page));
        assert!(!examples.is_empty(), "{page} has no example");
        for example in examples {
            let command = &example.command;
            let ran = run(shell(command).current_dir(folder.path()));
            assert_eq!(ran.code, 0, "{page}: {command}\n{}", ran.stderr);
            let mut printed = ran.stdout.lines().map(comparable);
            for line in example.shown.iter().map(|line| comparable(line)) {
                let found = printed.any(|other| other == line);
                assert!(found, "{page}: {command} does not print `{line}`:\n{}", ran.stdout);
            }
        }
    }
}

/// A newcomer who follows one chunk reads no more than this.
#[test]
fn one_chunk_is_followed_in_few_files() {
    let page = read("src/guide/architecture.md");
    let list = page.split("Follow one chunk through the code").nth(1).unwrap();
    let list = list.split("## ").next().unwrap();
    let files: Vec<&str> = list.split('`').filter(|word| word.starts_with("src/")).collect();
    let lines: usize = files.iter().map(|file| read(file).lines().count()).sum();
    assert!((8..=12).contains(&files.len()) && lines <= 3_000, "{lines} lines in {files:?}");
}

/// Markdown finds no link that a page forgets to define, and rustdoc none to a file.
#[test]
fn links_between_the_papers_lead_somewhere() {
    let guide = std::fs::read_dir(root().join("src/guide")).unwrap();
    let pages = guide.map(|entry| entry.unwrap().path());
    let papers = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root().join(name));
    for paper in pages.filter(|page| !page.ends_with("links.md")).chain(papers) {
        let text = prose(&std::fs::read_to_string(&paper).unwrap());
        let folder = paper.parent().unwrap();
        let inline = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        let defined = text
            .lines()
            .filter(|line| line.starts_with('['))
            .filter_map(|line| line.split_once("]: ").map(|(_, target)| target));
        for target in inline.chain(defined).filter(|target| !target.contains("://")) {
            let file = target.split('#').next().unwrap();
            let there = file.is_empty() || folder.join(file).exists();
            assert!(there, "{}: {target} is not there", paper.display());
        }
        for label in text.split("][").skip(1).map(|rest| rest.split(']').next().unwrap()) {
            let definition = format!("\n[{label}]: ");
            assert!(text.contains(&definition), "{}: [{label}]", paper.display());
        }
    }
}

#[test]
fn the_readme_is_short() {
    assert!(read("README.md").len() <= 10_000);
}

/// A command and the lines that are shown of its output.
struct Example {
    command: String,
    shown: Vec<String>,
}

/// The commands in the `console` blocks of `page`, in order. Lines of `…` stand for lines that are left out.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap().replace("\\\n", "");
        for line in block.lines().filter(|line| line.trim() != "…" && !line.is_empty()) {
            if let Some(command) = line.strip_prefix("$ ") {
                examples.push(Example { command: command.to_owned(), shown: Vec::new() });
            } else {
                examples.last_mut().expect("a command first").shown.push(line.to_owned());
            }
        }
    }
    examples
}

/// `paper` without its code.
fn prose(paper: &str) -> String {
    let outside = |text: &str, mark: &str| text.split(mark).step_by(2).collect::<String>();
    outside(&outside(paper, "```"), "`")
}

/// `line` without what differs from run to run: every word with a digit or a slash in it.
fn comparable(line: &str) -> String {
    let differs = |c: char| c.is_ascii_digit() || c == '/';
    let words = line.split_whitespace();
    words.map(|word| if word.contains(differs) { "#" } else { word }).collect::<Vec<_>>().join(" ")
}

/// A shell that finds the built command first.
fn shell(command: &str) -> Command {
    let built = Path::new(binary()).parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(built).chain(std::env::split_paths(&others)));
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("PATH", path.unwrap());
    shell
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(paper: &str) -> String {
    std::fs::read_to_string(root().join(paper)).unwrap()
}
