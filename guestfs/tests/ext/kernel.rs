//! The kernel's own reader: a volume that it mounts, and the comparison of all that both say.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use guestfs::FileSystem;

use crate::common::kernel;

/// Runs a tool, which is to succeed.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A new image of `mib` MiB in `folder`, formatted by `mkfs.ext4` with `options`.
pub fn formatted(folder: &Path, mib: u64, options: &str) -> PathBuf {
    let image = folder.join("volume.raw");
    fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let mut args: Vec<_> = options.split_whitespace().collect();
    args.extend(["-q", "-F", image.to_str().unwrap()]);
    run("mkfs.ext4", &args);
    image
}

/// A volume that the kernel has mounted.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts `image` in `folder`; none, with a line that says so, where that cannot be done.
    pub fn new(image: &Path, folder: &Path, options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mounting takes root");
            return None;
        }
        let place = folder.join("mounted");
        fs::create_dir_all(&place).unwrap();
        let options = format!("loop,{options}");
        let output = Command::new("mount").args(["-t", "ext4", "-o", &options]).args([image, &place]).output().unwrap();
        if !output.status.success() {
            println!("SKIPPED: this kernel does not mount it: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self(place))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "umount {}", self.0.display());
    }
}

/// Compares all that the kernel, which has the volume mounted in `place`, says of it with what `fs` does. Gives the number
/// of files.
pub fn assert_same(fs: &dyn FileSystem, place: &Path) -> usize {
    1 + kernel::assert_same(fs, place)
}
