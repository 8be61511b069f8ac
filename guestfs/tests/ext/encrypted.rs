//! Directories that the guest's kernel encrypted (fscrypt), as it shows them itself to those without the key.

use std::{fs, process::Command};

use blockdev::ErrorKind;
use guestfs::{FileId, FileSystem, Kind};

use crate::{
    common::{device, entries, filesystem},
    kernel::{Mount, formatted},
};

/// Adds a key to the volume mounted in `argv[1]` and encrypts each further argument, an empty directory, with it:
/// `FS_IOC_ADD_ENCRYPTION_KEY` and `FS_IOC_SET_ENCRYPTION_POLICY` of `linux/fscrypt.h`.
const ENCRYPT: &str = r#"
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
key = bytearray(struct.pack('=II32sII32x', 2, 0, b'', 64, 0) + bytes(range(64)))
fcntl.ioctl(fd, 0xc0506617, key)
policy = struct.pack('=BBBBBxxx16s', 2, 1, 4, 3, 0, bytes(key[8:24]))
for path in sys.argv[2:]:
    fcntl.ioctl(os.open(path, os.O_RDONLY), 0x800c6613, policy)
"#;

#[test]
fn encrypted_directories() {
    let folder = tempfile::tempdir().unwrap();
    let image = formatted(folder.path(), 32, "-t ext4 -b 1024 -O encrypt");
    let Some(mounted) = Mount::new(&image, folder.path(), "defaults") else { return };
    let (small, large) = (mounted.path().join("small"), mounted.path().join("large"));
    for dir in [&small, &large] {
        fs::create_dir(dir).unwrap();
    }
    let made = Command::new("python3").args(["-c", ENCRYPT]).args([mounted.path(), &small, &large]).output().unwrap();
    if !made.status.success() {
        return println!("SKIPPED: this kernel does not encrypt: {}", String::from_utf8_lossy(&made.stderr));
    }
    for len in [1, 15, 16, 17, 100, 148, 149, 150, 160, 200, 255] {
        fs::write(small.join("n".repeat(len)), "secret").unwrap();
    }
    fs::create_dir(small.join("below")).unwrap();
    fs::write(small.join("below/file"), "secret").unwrap();
    std::os::unix::fs::symlink("a secret target", small.join("link")).unwrap();
    for n in 0..500 {
        fs::hard_link(small.join("n"), large.join(format!("name {n}"))).unwrap();
    }
    drop(mounted);

    let mounted = Mount::new(&image, folder.path(), "ro,noload").unwrap();
    let fs = filesystem(&[device(&image)]);
    let mut count = 0;
    let mut todo = vec![(fs.root(), mounted.path().to_owned())];
    while let Some((dir, place)) = todo.pop() {
        let mut known: Vec<_> =
            fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        known.sort();
        let listed = entries(fs.as_ref(), dir).unwrap();
        let mut names: Vec<_> = listed.iter().map(|e| String::from_utf8(e.name.clone()).unwrap()).collect();
        names.sort();
        assert_eq!(names, known, "{}", place.display());
        for entry in listed {
            count += 1;
            let path = place.join(str::from_utf8(&entry.name).unwrap());
            assert_eq!(fs.lookup(dir, &entry.name).unwrap(), Some(entry.id), "{}", path.display());
            assert_eq!(fs.lookup(dir, b"name 1").unwrap(), None);
            let metadata = fs.metadata(entry.id).unwrap();
            assert_eq!(metadata.size, fs::symlink_metadata(&path).unwrap().len(), "{}", path.display());
            match entry.kind {
                Kind::Dir => todo.push((entry.id, path)),
                Kind::Symlink => {
                    let target = fs::read_link(&path).unwrap();
                    assert_eq!(fs.link_target(entry.id).unwrap(), target.as_os_str().as_encoded_bytes());
                }
                _ => assert_locked(fs.as_ref(), entry.id),
            }
        }
    }
    assert!(count > 510, "{count}");
}

fn assert_locked(fs: &dyn FileSystem, file: FileId) {
    let error = fs.content(file).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(error.to_string().contains("encrypted"), "{error}");
}
