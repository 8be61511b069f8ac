//! The program `revenant`, run as a user runs it.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Seek},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::case::Case;

/// No run takes longer; one that does is stopped and counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// The program, built in the profile of the running test.
///
/// # Panics
///
/// When it can be neither built nor found.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = env::current_exe().expect("the path of this test");
        let folder = test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
        if let Some(cargo) = env::var_os("CARGO") {
            let profile = folder.file_name().filter(|n| *n != "debug").unwrap_or(OsStr::new("dev"));
            let mut command = Command::new(cargo);
            command.args(["build", "--quiet", "--package", "appliance", "--profile"]).arg(profile);
            command.arg("--target-dir").arg(folder.parent().expect("a profile's folder lies in target"));
            let status = command.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo");
            assert!(status.success(), "cargo cannot build the program");
        }
        let program = folder.join("revenant");
        assert!(program.exists(), "no program {}: cargo build -p appliance", program.display());
        program
    })
}

/// What a run gave.
#[derive(Debug)]
pub struct Run {
    /// How it ended; `None` when it hung and was stopped.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
}

impl Run {
    /// The exit code, if it ended by itself.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|s| s.code())
    }

    /// Asserts that everything went well.
    ///
    /// # Panics
    ///
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn good(self) -> Self {
        assert_eq!(self.code(), Some(0), "{:?}: {}", self.status, self.stderr);
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    ///
    /// When it is none, or the run failed.
    #[track_caller]
    #[must_use]
    pub fn json(self) -> Value {
        let run = self.good();
        serde_json::from_slice(&run.stdout).expect("JSON on standard output")
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs `command` and waits for at most `limit`.
///
/// # Panics
///
/// When it cannot be started.
#[must_use]
pub fn run_within(command: &mut Command, limit: Duration) -> Run {
    // Files, not pipes: nobody needs to read while it runs.
    let (mut out, mut err) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
    let handle = |f: &File| Stdio::from(f.try_clone().expect("a second handle"));
    let child = command.stdin(Stdio::null()).stdout(handle(&out)).stderr(handle(&err)).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("{}: {e}", command.get_program().display()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waiting") {
            break Some(status);
        }
        if start.elapsed() > limit {
            child.kill().expect("stopping");
            child.wait().expect("waiting");
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let read = |f: &mut File| {
        let mut bytes = Vec::new();
        f.rewind().and_then(|()| f.read_to_end(&mut bytes)).expect("reading what it printed");
        bytes
    };
    let stdout = read(&mut out);
    Run { status, stdout, stderr: String::from_utf8_lossy(&read(&mut err)).into_owned() }
}

/// The program with what it opens; the folder for its indexes is its own and empty at first.
#[derive(Debug)]
pub struct Revenant {
    options: Vec<OsString>,
    /// The folder for indexes.
    pub cache: tempfile::TempDir,
    limit: Duration,
}

impl Revenant {
    /// On the volumes in `volumes`.
    #[must_use]
    pub fn new(volumes: &Path) -> Self {
        let cache = crate::temp();
        let options = ["-q".as_ref(), "--volumes".as_ref(), volumes.as_os_str(), "--cache".as_ref()];
        let mut options: Vec<OsString> = options.map(OsString::from).into();
        options.push(cache.path().into());
        Self { options, cache, limit: LIMIT }
    }

    /// On `volumes` of a case, with the case's keys (one of them, if there are several).
    #[must_use]
    pub fn of(case: &Case, volumes: &Path) -> Self {
        let mut revenant = Self::new(volumes);
        if let Some(key) = case.keys().first() {
            revenant = revenant.with("--key", key);
        }
        if let Some(keys) = case.volume_keys() {
            revenant = revenant.with("--volume-keys", &keys);
        }
        revenant
    }

    /// With another option.
    #[must_use]
    pub fn with(mut self, option: &str, value: &Path) -> Self {
        self.options.extend([option.into(), value.into()]);
        self
    }

    /// With another limit to the time a run may take.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command, with nothing of this machine's configuration.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = bare(args);
        command.args(&self.options);
        command
    }

    /// Runs it.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        run_within(&mut self.command(args), self.limit)
    }

    /// `jobs --json`.
    ///
    /// # Panics
    ///
    /// When that fails.
    #[track_caller]
    #[must_use]
    pub fn jobs(&self) -> Vec<Value> {
        match self.run(["jobs", "--json"]).json() {
            Value::Array(jobs) => jobs,
            other => panic!("jobs --json is no list: {other}"),
        }
    }

    /// `extract` of `paths` into `out`.
    pub fn extract<S: AsRef<OsStr>>(&self, paths: impl IntoIterator<Item = S>, out: &Path) -> Run {
        let mut args = vec![OsString::from("extract"), "-o".into(), out.into()];
        args.extend(paths.into_iter().map(|p| p.as_ref().to_owned()));
        self.run(args)
    }
}

/// The program with `args` alone: no volumes, no configuration, no environment of its own.
pub fn bare<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(path());
    for name in ["REVENANT_VOLUMES", "REVENANT_CATALOG", "REVENANT_CACHE"] {
        command.env_remove(name);
    }
    command.env("REVENANT_CONFIG", "/dev/null").args(args);
    command
}
