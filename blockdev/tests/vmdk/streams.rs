//! streamOptimized images whose directory is told by a footer, whole and cut off.

use std::{fs, sync::Arc};

use blockdev::{ErrorKind, ReadAt, images};

use crate::{
    common::{Folder, Random, assert_same, qemu_raw},
    maker::{Grain, descriptor, stream},
};

const GRAIN: usize = 65536;
/// Two tables' worth and a half, the second of which has no grain; the disk ends within a grain.
const SIZE: usize = 80 * (1 << 20) + 512;

struct Made {
    content: Vec<u8>,
    file: Vec<u8>,
    /// Where each grain and each marker begins.
    parts: Vec<usize>,
    grains: Vec<Grain>,
}

fn make() -> Made {
    let mut random = Random(10);
    let mut content = vec![0; SIZE];
    let mut grains = vec![Grain::Absent; SIZE.div_ceil(GRAIN)];
    for number in (0..512).chain(1024..grains.len()).filter(|n| n % 7 < 3) {
        grains[number] = Grain::Data;
        let end = SIZE.min((number + 1) * GRAIN);
        let text = b"to be or not to be, ".iter().copied().cycle().take(GRAIN / 2);
        let bytes: Vec<u8> = text.chain(random.bytes(GRAIN / 2)).collect();
        content[number * GRAIN..end].copy_from_slice(&bytes[..end - number * GRAIN]);
    }
    let lines = format!("RDONLY {} SPARSE \"some-name.vmdk\"", SIZE / 512);
    let (file, parts) = stream(&content, &grains, &descriptor(5, u32::MAX, "streamOptimized", &lines));
    Made { content, file, parts, grains }
}

fn open(bytes: &[u8]) -> blockdev::Result<images::Image> {
    images::open("x.vmdk", Arc::new(bytes.to_vec()), None, &Folder::default())
}

#[test]
fn whole() {
    let folder = tempfile::tempdir().unwrap();
    let made = make();
    let image = folder.path().join("x.vmdk");
    fs::write(&image, &made.file).unwrap();
    let opened = open(&made.file).unwrap();
    let info = &opened.members[0].info;
    assert_eq!(info.variant, "streamOptimized");
    assert!(info.notes.is_empty(), "{info:?}");
    assert_same(&opened.disk, &made.content, &mut Random(11));
    assert_same(&opened.disk, &qemu_raw("vmdk", &image, &folder.path().join("qemu.raw")), &mut Random(11));
}

/// Something at the end, or the footer gone: the markers lead to the directory.
#[test]
fn without_its_footer() {
    let made = make();
    let [directory, footer, end] = made.parts[made.parts.len() - 3..] else { unreachable!() };
    assert!(directory < footer);
    let padded = [&made.file[..], &[0; 10_000]].concat();
    for bytes in [&made.file[..end], &made.file[..footer], &padded] {
        let opened = open(bytes).unwrap();
        assert_same(&opened.disk, &made.content, &mut Random(12));
        assert!(opened.members[0].info.notes.is_empty());
    }
}

/// Wherever it was cut off, what was before can be read, and what was behind is an error, never zeros.
#[test]
fn cut_off() {
    let made = make();
    let data: Vec<usize> = (0..made.grains.len()).filter(|n| made.grains[*n] == Grain::Data).collect();
    let directory = made.parts[made.parts.len() - 3];
    let mut random = Random(13);
    for _ in 0..40 {
        let cut = 65536 + random.below((directory - 65536) as u64) as usize;
        for bytes in [made.file[..cut].to_vec(), [&made.file[..cut], &[0; 4096]].concat()] {
            let opened = open(&bytes).unwrap();
            let notes = &opened.members[0].info.notes;
            assert!(notes[0].contains("cut off"), "{notes:?}");
            // Of the parts before the cut, as many are grains as grains can be read.
            let mut readable = 0;
            let mut buffer = vec![0; GRAIN];
            let mut lost = false;
            for number in 0..made.grains.len() {
                let start = number * GRAIN;
                let expected = &made.content[start..SIZE.min(start + GRAIN)];
                match opened.disk.read_at(&mut buffer[..expected.len()], start as u64) {
                    Ok(_) => {
                        assert!(!lost && buffer[..expected.len()] == *expected, "grain {number}, cut at {cut}");
                        readable += usize::from(made.grains[number] == Grain::Data);
                    }
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Damaged, "{e}");
                        lost = true;
                    }
                }
            }
            assert!(lost, "the end of the disk cannot be there, cut at {cut}");
            // A table's marker comes after its grains: with `n` whole grains before the cut, `n` can be read.
            let mut parts = made.parts.windows(2).filter(|pair| pair[1] <= cut).count();
            let first_table = data.iter().filter(|n| **n < 512).count();
            parts -= usize::from(parts > first_table);
            assert!(readable >= parts && readable <= parts + 1, "{readable} of {parts}, cut at {cut}");
        }
    }
}

#[test]
fn grains_that_are_not_where_the_table_says() {
    let made = make();
    for (at, value) in
        [(made.parts[5], 1_u8), (made.parts[5] + 8, 0), (made.parts[5] + 10, 0xff), (made.parts[5] + 40, 0x55)]
    {
        let mut bytes = made.file.clone();
        assert_ne!(bytes[at], value);
        bytes[at] = value;
        let disk = open(&bytes).unwrap().disk;
        let mut failed = 0;
        let mut buffer = vec![0; GRAIN];
        for number in 0..made.grains.len() {
            let start = number * GRAIN;
            let expected = &made.content[start..SIZE.min(start + GRAIN)];
            match disk.read_at(&mut buffer[..expected.len()], start as u64) {
                Ok(_) => assert!(buffer[..expected.len()] == *expected),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Damaged, "{e}");
                    failed += 1;
                }
            }
        }
        assert!(failed == 1 || at == made.parts[5] + 8, "byte {at}: {failed} grains");
    }
}
