//! `revenant bacula-config`: a job and a file set for each machine, and a job that restores them, for Bacula's Director.
//!
//! The Director asks when it reads its configuration, and takes what is printed for a part of it; what goes to standard error
//! is lost (`lib/lex.c`). A new machine is protected after the next `reload`. When a hypervisor does not answer, the last
//! answer is given again, with a comment that says so: a Director that cannot read its configuration does no backup at all.

use std::{fs, io::Write, path::PathBuf};

use blockdev::{Error, Result};
use hv_drivers::driver::Listed;

use crate::{
    backup::{hypervisors, runs::List},
    cli::{BaculaConfig, Cli},
    config, output,
};

pub fn run(cli: &Cli, options: &BaculaConfig) -> Result<u8> {
    let kept = kept(cli, options)?;
    let text = match text(cli, options) {
        Ok(text) => {
            if let Some(kept) = &kept {
                let folder = kept.parent().map_or(Ok(()), fs::create_dir_all);
                if let Err(e) = folder.and_then(|()| fs::write(kept, &text)) {
                    output::note(&format!("cannot keep {}: {e}", kept.display()));
                }
            }
            text
        }
        Err(e) => {
            let Some(last) = kept.and_then(|kept| fs::read_to_string(kept).ok()) else { return Err(e) };
            let why = e.to_string().replace('\n', " ");
            format!("# NOT UP TO DATE: {why}\n# What follows was the answer the last time.\n{last}")
        }
    };
    let mut out = output::stdout();
    output::written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
    Ok(0)
}

/// Where the last answer to this question is.
fn kept(cli: &Cli, options: &BaculaConfig) -> Result<Option<PathBuf>> {
    let question = blake3::hash(format!("{options:?}").as_bytes()).to_hex();
    let name = format!("bacula-config-{}.conf", question.get(..16).unwrap_or_default());
    Ok(config::cache(&cli.sources)?.map(|cache| cache.join(name)))
}

fn text(cli: &Cli, options: &BaculaConfig) -> Result<String> {
    let mount = match &options.mount {
        Some(mount) => mount.clone(),
        None => config::mount(&cli.sources)?.ok_or_else(|| {
            Error::invalid("where is the tree mounted? give --mount, or `mount` in the configuration file")
        })?,
    };
    for text in [&options.client, &options.job_defs, &options.prefix, &options.program, &mount.display().to_string()] {
        if text.contains(['"', '\\', '\n']) {
            return Err(Error::invalid(format!("{text:?} cannot be in Bacula's configuration")));
        }
    }
    let machines = hypervisors::listed(&cli.sources, &List::from(&options.selection))?;
    let several = machines.iter().any(|(hypervisor, _)| *hypervisor != machines[0].0);
    let job_of = |(hypervisor, machine): &(String, Listed)| match several {
        true => format!("{}{hypervisor}-{}", options.prefix, machine.name),
        false => format!("{}{}", options.prefix, machine.name),
    };
    let mut text = String::new();
    for entry in &machines {
        let ((hypervisor, machine), job) = (entry, job_of(entry));
        let path = mount.join("backup").join(hypervisor).join(&machine.name);
        let (program, name) = (&options.program, format!("{hypervisor}/{}", machine.name));
        text.push_str(&format!(
            r#"FileSet {{
  Name = "{job}"
  Ignore FileSet Changes = yes
  Include {{
    Options {{ Signature = SHA1; Sparse = yes }}
    File = "{path}"
  }}
}}
Job {{
  Name = "{job}"; Type = Backup; Level = Incremental
  JobDefs = "{defs}"; Client = "{client}"; FileSet = "{job}"
  Accurate = yes; Allow Duplicate Jobs = no
  RunScript {{
    RunsWhen = Before; RunsOnClient = yes; FailJobOnError = yes
    Command = "{program} backup begin {name} --level %l --job %j --parent '%S'"
  }}
  RunScript {{
    RunsWhen = After; RunsOnClient = yes; RunsOnSuccess = yes; RunsOnFailure = yes; FailJobOnError = yes
    Command = "{program} backup end {name} --job %j --status '%e'"
  }}
}}
"#,
            path = path.display(),
            defs = options.job_defs,
            client = options.client,
        ));
    }
    if let Some(first) = machines.first() {
        text.push_str(&format!(
            r#"Job {{
  Name = "{prefix}restore"; Type = Restore
  JobDefs = "{defs}"; Client = "{client}"; FileSet = "{file_set}"
  Where = "{place}"
  RunScript {{
    RunsWhen = After; RunsOnClient = yes; RunsOnSuccess = yes; RunsOnFailure = yes; FailJobOnError = yes
    Command = "{program} restore end --status '%e'"
  }}
}}
"#,
            prefix = options.prefix,
            defs = options.job_defs,
            client = options.client,
            file_set = job_of(first),
            place = mount.join("restore").join(&first.0).join("restored").display(),
            program = options.program,
        ));
    }
    Ok(text)
}
