//! Running other programs: every command is shown before it runs, and a failure names the whole command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the repository, found at build time through this package's folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `cargo`, the one that runs this program, in the root of the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo builds to.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Builds the program in release and says where it is.
pub fn build_revenant() -> Result<PathBuf> {
    run(cargo().args(["build", "--quiet", "--release", "--locked", "--package", "appliance"]))?;
    Ok(target().join("release/revenant"))
}

/// A command with its arguments.
pub fn command<I, S>(program: &str, arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The command line as one would type it: `cargo`, wherever this one is.
pub fn shown(command: &Command) -> String {
    let program = match command.get_program() {
        program if std::env::var_os("CARGO").is_some_and(|cargo| cargo == program) => "cargo".as_ref(),
        program => program,
    };
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A path as a shell reads it.
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// `word` as a shell reads it back unchanged.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Shows and runs a command; fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    run_quietly(command)
}

/// Runs a command without showing it; fails if it does.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start: {}", shown(command)))?;
    if !status.success() {
        bail!("{status}: {}", shown(command));
    }
    Ok(())
}

/// The standard output of a command that must succeed; its standard error is passed on.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start: {}", shown(command)))?;
    if !output.status.success() {
        bail!("{}: {}", output.status, shown(command));
    }
    Ok(output.stdout)
}

/// Where a program is: along `PATH`, and in the folders of system programs that a user's `PATH` may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Whether `cargo <subcommand>` is installed.
pub fn has_cargo(subcommand: &str) -> bool {
    let program = format!("cargo-{subcommand}");
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    find(&program).is_some() || home.is_some_and(|home| home.join("bin").join(&program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_command_line_survives_a_shell() {
        let words = ["plain/path", "two words", "it's", "", "$(no)"];
        let line = shown(&command("printf", std::iter::once("%s\n").chain(words)));
        let out = output(&mut command("sh", ["-c", &line])).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), words.map(|w| format!("{w}\n")).concat());
    }

    #[test]
    fn a_failing_command_is_named() {
        let error = run_quietly(&mut command("sh", ["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("sh -c 'exit 3'"), "{error}");
    }
}
