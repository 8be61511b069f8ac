//! Images of real products, by the digests of their contents in the index beside them.

use blockdev::ReadAt;
use sha2::{Digest, Sha256};

use crate::common::{open, real_image};

fn assert_content(name: &str, beside: &[&str], variant: &str, sha256: &str) {
    let folder = tempfile::tempdir().unwrap();
    for other in beside {
        real_image(other, folder.path());
    }
    let Some(path) = real_image(name, folder.path()) else { return };
    let image = open(&path).unwrap();
    assert_eq!(image.members[0].info.variant, variant);
    let (mut digest, mut at, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    while at < image.disk.size() {
        let n = image.disk.read_at(&mut buffer, at).unwrap();
        digest.update(&buffer[..n]);
        at += n as u64;
    }
    let found: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(found, sha256, "{name}");
}

const EXT2: &str = "774a6a407b0d3268fef4a180a3b0700f3932d7748d2a0a3e9521a36e2e1994f7";

#[test]
fn monolithic_sparse() {
    assert_content("vmdk/ext2.vmdk.zst", &[], "monolithicSparse", EXT2);
}

#[test]
fn cowd_with_and_without_a_descriptor() {
    assert_content("vmdk/ext2-cowd-descriptor.vmdk", &["vmdk/ext2.cowd.zst"], "vmfsSparse", EXT2);
    assert_content("vmdk/ext2.cowd.zst", &[], "vmfsSparse", EXT2);
}

/// 16 GiB of zeros and little else, with its directory in the footer.
#[test]
fn stream_optimized() {
    let sha256 = "0859bb3397bc1d30fa979c80a289ce98bfd6c1141a64594d6f3cc8cd68218faf";
    assert_content("vmdk/iotest-version3.vmdk.bz2", &[], "streamOptimized", sha256);
}

#[test]
fn a_malformed_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = real_image("vmdk/afl9.vmdk.bz2", folder.path()) else { return };
    let error = open(&path).err().unwrap();
    assert_eq!(error.kind(), blockdev::ErrorKind::Damaged, "{error}");
}
