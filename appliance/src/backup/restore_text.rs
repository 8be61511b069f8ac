//! `RESTORE.txt`: how a machine comes back with nothing but stock Bacula and qemu-img.

use super::record::{Level, Member};

/// The text for a point.
pub fn text(machine: &str, hypervisor: &str, level: Level, job: &str, disks: &[Member]) -> String {
    let mut convert = String::new();
    for disk in disks {
        convert.push_str(&format!("  qemu-img convert -p -O qcow2 {} {machine}-{}.qcow2\n", disk.file, disk.disk));
    }
    let chain = match level {
        Level::Full => "This is a Full: its files are all there is to it.",
        _ => {
            "This is a delta: its files are on top of those of earlier jobs, which `restore` brings along when it is\n\
             asked for the newest backup (choice 5) or for a time (choice 6), not for one JobId."
        }
    };
    format!(
        "{machine} ({hypervisor}), job {job}\n\n\
         {chain}\n\n\
         1. In bconsole, into any folder of any machine with a File daemon:\n\n\
         \x20 restore client=CLIENT fileset=FILESET where=/restore select current all done yes\n\n\
         2. Where the files came to lie (all disks in one folder; the chain finds its files by their names):\n\n\
         \x20 qemu-img check FILE\n{convert}\n\
         \x20 `-O raw`, `-O vmdk` and `-O vpc` work as well. A machine can also be started from the newest file as it is.\n\n\
         3. machine.json and the hypervisor's own configuration beside it say what the machine was made of.\n",
    )
}
