//! A stock Bacula for benchmarks: a lab made by `tests/lab/bacula-lab.sh`, and the command lines of its tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cmd;

/// The lab in a folder.
pub struct Lab {
    folder: PathBuf,
}

impl Lab {
    /// The lab in `folder`, which need not exist yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// Starts the daemons, making the lab (Bacula 9.6, SQLite catalog) if there is none yet.
    pub fn up(&self) -> Result<()> {
        cmd::run(self.script("up").arg(&self.folder))
    }

    /// Stops the daemons; volumes and catalog stay.
    pub fn stop(&self) -> Result<()> {
        cmd::run(&mut self.script("stop"))
    }

    /// Defines the job `name` over `source`, with further options of the script's `define`.
    pub fn define(&self, name: &str, source: &Path, options: &[&str]) -> Result<()> {
        cmd::run(self.script("define").arg(name).arg("--path").arg(source).args(options))
    }

    /// Runs a Full of `name`; the JobId.
    pub fn full(&self, name: &str) -> Result<u32> {
        self.backup(name, "Full")
    }

    /// Runs a job of `name` at `level`; the JobId.
    pub fn backup(&self, name: &str, level: &str) -> Result<u32> {
        let mut command = self.script("backup");
        command.args([name, level]);
        eprintln!("$ {}", cmd::shown(&command));
        let out = String::from_utf8(cmd::output(&mut command)?)?;
        out.trim().parse().with_context(|| format!("bacula-lab.sh backup {name} printed no JobId: {out:?}"))
    }

    /// The line for the shell that runs a job of `name`.
    pub fn backup_line(&self, name: &str, level: &str) -> String {
        let script = cmd::root().join("tests/lab/bacula-lab.sh");
        let (folder, script) = (self.folder.to_string_lossy(), script.to_string_lossy());
        format!("BACULA_LAB_DIR={} {} backup {name} {level} >/dev/null", cmd::quoted(&folder), cmd::quoted(&script))
    }

    /// What the catalog answers.
    pub fn sql(&self, query: &str) -> Result<String> {
        Ok(String::from_utf8(cmd::output(self.script("sql").arg(query))?)?)
    }

    /// Deletes all volumes of job `name`, if there are any, and tells the catalog.
    pub fn forget_volumes(&self, name: &str) -> Result<()> {
        let Ok(volumes) = std::fs::read_dir(self.device(name)) else { return Ok(()) };
        for volume in volumes {
            let volume = volume?;
            let delete = format!("delete volume={} yes", volume.file_name().to_string_lossy());
            cmd::run(self.script("console").arg(delete))?;
            std::fs::remove_file(volume.path())?;
        }
        Ok(())
    }

    /// Writes a copy of the catalog to `file`.
    pub fn dump_catalog(&self, file: &Path) -> Result<()> {
        cmd::run(self.script("dump").arg(file))
    }

    /// The folder of the volumes of job `name`: the archive device of the stock tools.
    pub fn device(&self, name: &str) -> PathBuf {
        self.folder.join("volumes").join(name)
    }

    /// The command line of a stock tool, up to its own arguments. The script's `tool` would do the same, but bash
    /// would be measured with it.
    pub fn tool(&self, program: &str) -> String {
        let folder = cmd::quoted(&self.folder.to_string_lossy());
        format!("env LD_LIBRARY_PATH={folder}/lib:/usr/lib/bacula /usr/sbin/{program} -c {folder}/etc/bacula-sd.conf")
    }

    /// The SQL that makes an empty catalog of this release.
    pub fn schema() -> Result<PathBuf> {
        let cache = std::env::var_os("BACULA_LAB_CACHE").map(PathBuf::from).or_else(|| {
            let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
            Some(base.or(home)?.join("bacula-lab"))
        });
        Ok(cache
            .context("neither BACULA_LAB_CACHE, XDG_CACHE_HOME nor HOME is set")?
            .join("r9/usr/share/dbconfig-common/data/bacula-director-sqlite3/install/sqlite3"))
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(cmd::root().join("tests/lab/bacula-lab.sh"));
        command.env("BACULA_LAB_DIR", &self.folder);
        command.arg(verb);
        command
    }
}
