//! `cargo xtask tidy`: what no compiler checks about the source tree. Also a test, so that no push forgets it.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cmd;

/// Longest source file, in lines: beyond it a file has more than one reason to change.
const LINES_MAX: usize = 800;

/// Text that must not be left in the tree. Written in halves, or this file would be its first find.
const BANNED: [(&str, &str); 9] = [
    (concat!("TO", "DO"), "a leftover: do it, or open an issue"),
    (concat!("FIX", "ME"), "a leftover: do it, or open an issue"),
    (concat!("unimpl", "emented!("), "unfinished code"),
    (concat!("to", "do!("), "unfinished code"),
    (concat!("db", "g!("), "debugging output"),
    (concat!("/wo", "rk/"), "a path of somebody's machine"),
    (concat!("/tmp/", "wt"), "a path of somebody's machine"),
    (concat!("/Use", "rs/"), "a path of somebody's machine"),
    (concat!("/root/.", "ca"), "a path of somebody's machine"),
];

/// Runs the subcommand.
pub fn run() -> Result<()> {
    let found = check(&cmd::root())?;
    for line in &found {
        println!("{line}");
    }
    if !found.is_empty() {
        bail!("tidy: {} things to put right", found.len());
    }
    Ok(())
}

/// All findings under `root`, one line each.
fn check(root: &Path) -> Result<Vec<String>> {
    let mut list = cmd::command("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let files = cmd::output(list.current_dir(root))?;
    let mut found = Vec::new();
    for name in files.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = String::from_utf8_lossy(name);
        // Volumes, images and manifests are bytes to be read, not sources; licences are as their authors wrote them.
        if is_data(&name) || name.starts_with("LICENSE-") || name.ends_with(".lock") {
            continue;
        }
        // A deleted file is listed until the deletion is committed.
        if let Ok(content) = std::fs::read(root.join(&*name)) {
            check_file(&name, &content, &mut found);
        }
    }
    Ok(found)
}

/// Whether a file is made to be read by the program, not by people.
fn is_data(name: &str) -> bool {
    ["/data/", "fuzz/images/", "fuzz/seeds/"].iter().any(|data| name.contains(data))
}

fn check_file(name: &str, content: &[u8], found: &mut Vec<String>) {
    let Ok(text) = std::str::from_utf8(content) else {
        found.push(format!("{name}: not UTF-8"));
        return;
    };
    let source = [".rs", ".sh", ".py"].iter().any(|end| name.ends_with(end));
    let lines = text.lines().count();
    if source && lines > LINES_MAX {
        found.push(format!("{name}: {lines} lines, more than {LINES_MAX}: split it"));
    }
    for (number, line) in text.split('\n').enumerate() {
        let number = number + 1;
        if let Some(c) = line.chars().find(|c| is_hidden(*c)) {
            found.push(format!("{name}:{number}: invisible character U+{:04X}", u32::from(c)));
        }
        for (banned, why) in BANNED {
            if contains(line, banned) {
                found.push(format!("{name}:{number}: `{banned}`: {why}"));
            }
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        found.push(format!("{name}: no newline at the end"));
    }
}

/// Whether `line` has `banned`; a path counts only where it starts there, not in the middle of a longer one.
fn contains(line: &str, banned: &str) -> bool {
    line.match_indices(banned).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !banned.starts_with('/') || before.is_none_or(|c| !c.is_alphanumeric() && c != '}')
    })
}

/// Control characters, and those that make a line read other than the compiler does.
fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_tree_is_tidy() {
        let root = cmd::root();
        if !root.join(".git").exists() || cmd::find("git").is_none() {
            println!("skipped: not a git checkout");
            return;
        }
        let found = check(&root).unwrap();
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }

    #[test]
    fn each_kind_of_untidiness_is_found() {
        let long = "x\n".repeat(LINES_MAX + 1);
        for (name, content) in [
            ("a.rs", long.as_str()),
            ("a.md", "bell \u{7}\n"),
            ("a.rs", "right to left \u{202E}\n"),
            ("a.rs", "no newline"),
            ("a.rs", concat!("// TO", "DO later\n")),
            ("a.toml", "carriage return\r\n"),
            ("a.sh", concat!("cd /wo", "rk/x\n")),
        ] {
            let mut found = Vec::new();
            check_file(name, content.as_bytes(), &mut found);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
        }
        let mut found = Vec::new();
        check_file("a.rs", b"\tfn main() {}\n", &mut found);
        check_file("a.sh", concat!("mkdir $LAB/wo", "rk/x\n").as_bytes(), &mut found);
        check_file("a.rs", b"\xff\n", &mut found);
        assert_eq!(found, ["a.rs: not UTF-8"]);
    }
}
