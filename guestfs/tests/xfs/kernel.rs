//! The kernel as the other implementation: volumes made and mounted by it.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use crc_fast::{CrcAlgorithm, checksum};
use tempfile::TempDir;

pub use crate::common::kernel::assert_same;

/// A volume in a file, and a place to mount it on.
pub struct Volume {
    folder: TempDir,
    mounted: bool,
}

impl Volume {
    /// One of `size` bytes that `mkfs.xfs` makes with `options`; `None` where it cannot be made and mounted.
    pub fn make(size: u64, options: &[&str]) -> Option<Self> {
        let volume = Self::new()?;
        fs::File::create(volume.image()).unwrap().set_len(size).unwrap();
        let made = Command::new("mkfs.xfs").arg("-qf").args(options).arg(volume.image()).output();
        match made {
            Ok(output) if output.status.success() => Some(volume),
            Ok(output) => {
                println!("SKIPPED: mkfs.xfs {options:?}: {}", String::from_utf8_lossy(&output.stderr));
                None
            }
            Err(e) => {
                println!("SKIPPED: mkfs.xfs: {e}");
                None
            }
        }
    }

    /// A copy of `image`.
    pub fn copy(image: &Path) -> Option<Self> {
        let volume = Self::new()?;
        let copied = Command::new("cp").arg("--sparse=always").arg(image).arg(volume.image()).status().unwrap();
        assert!(copied.success());
        Some(volume)
    }

    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can mount");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Some(Self { folder, mounted: false })
    }

    /// Its file.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Adds features to its superblock, which has 512 bytes.
    pub fn add_incompatible(&self, features: u32) {
        let image = fs::File::options().read(true).write(true).open(self.image()).unwrap();
        let mut sector = [0; 512];
        image.read_exact_at(&mut sector, 0).unwrap();
        let field = &mut sector[216..220];
        let features = features | u32::from_be_bytes(field.try_into().unwrap());
        field.copy_from_slice(&features.to_be_bytes());
        sector[224..228].fill(0);
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, &sector) as u32;
        sector[224..228].copy_from_slice(&sum.to_le_bytes());
        image.write_all_at(&sector, 0).unwrap();
    }

    /// Mounts it; `None` where the kernel cannot.
    pub fn mount(&mut self, options: &str) -> Option<()> {
        let image = self.image();
        self.mount_image(&image, options)
    }

    /// Mounts the volume in the file `image`.
    pub fn mount_image(&mut self, image: &Path, options: &str) -> Option<()> {
        let output = Command::new("mount")
            .args(["-t", "xfs", "-o", &format!("loop,nouuid,{options}")])
            .arg(image)
            .arg(self.root())
            .output()
            .unwrap();
        if !output.status.success() {
            println!("SKIPPED: this kernel does not mount it: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        self.mounted = true;
        Some(())
    }

    /// Only a place to mount on.
    pub fn place() -> Option<Self> {
        Self::new()
    }

    /// Unmounts it.
    pub fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            assert!(Command::new("umount").arg(self.root()).status().unwrap().success());
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Writes all of the volume at `root` to its file.
pub fn sync(root: &Path) {
    rustix::fs::syncfs(fs::File::open(root).unwrap()).unwrap();
}
