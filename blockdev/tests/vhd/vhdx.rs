//! VHDX.

use blockdev::{BlockSizes, ErrorKind, ReadAt, images::Format};

use crate::{
    common::{Folder, Random, assert_same, open as open_beside, qemu_raw, run, touch, write_sparse},
    edit::{content, crc, le32, le64, made, open, open_among, put, refused, seal_vhdx, utf16le},
};

const MIB: usize = 1 << 20;
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
const REGION_TABLES: [usize; 2] = [192 << 10, 256 << 10];
const BAT: [u8; 4] = [0x66, 0x77, 0xc2, 0x2d];
const METADATA: [u8; 4] = [0x06, 0xa2, 0x7c, 0x8b];
const FILE_PARAMETERS: [u8; 4] = [0x37, 0x67, 0xa1, 0xca];
const LOGICAL_SECTOR_SIZE: [u8; 4] = [0x1d, 0xbf, 0x41, 0x81];
const PHYSICAL_SECTOR_SIZE: [u8; 4] = [0xc7, 0x48, 0xa3, 0xcd];

/// Where a region is.
pub fn region(image: &[u8], guid: [u8; 4]) -> usize {
    let table = REGION_TABLES[0];
    let entry = (0..2).map(|i| table + 16 + 32 * i).find(|at| image[*at..*at + 4] == guid).unwrap();
    le64(image, entry + 16) as usize
}

/// Where the block allocation table is.
pub fn bat(image: &[u8]) -> usize {
    region(image, BAT)
}

/// Where the entry of a metadata item is.
fn item_entry(image: &[u8], guid: [u8; 4]) -> usize {
    let table = region(image, METADATA);
    (1..10).map(|i| table + 32 * i).find(|at| image[*at..*at + 4] == guid).unwrap()
}

/// Where a metadata item is.
fn item(image: &[u8], guid: [u8; 4]) -> usize {
    region(image, METADATA) + le32(image, item_entry(image, guid) + 16) as usize
}

#[test]
fn qemu_images_have_qemus_content() {
    let mut random = Random(11);
    let kinds = [
        ("dynamic", "block_size=1M"),
        ("dynamic", "block_size=2M,log_size=3M"),
        ("dynamic", "block_size=256M"),
        ("fixed", "block_size=1M"),
        ("fixed", "block_size=8M,block_state_zero=off"),
    ];
    for (subformat, options) in kinds {
        for size in [512, (1 << 20) + 512, 37 << 20, (67 << 20) - 512] {
            let folder = tempfile::tempdir().unwrap();
            let [source, image, raw] = ["source", "disk.vhdx", "raw"].map(|name| folder.path().join(name));
            write_sparse(&source, size, &mut random);
            let options = format!("subformat={subformat},{options}");
            let arguments = ["convert", "-f", "raw", "-O", "vhdx", "-o", &options];
            run("qemu-img", arguments.into_iter().map(AsRef::as_ref).chain([source.as_os_str(), image.as_os_str()]));
            let expected = qemu_raw("vhdx", &image, &raw);
            let opened = open_beside(&image).unwrap();
            let info = &opened.members[0].info;
            assert_eq!((info.format, info.variant.as_str()), (Format::Vhdx, subformat));
            assert!(info.notes.is_empty());
            assert_same(&opened.disk, &expected, &mut random);
        }
    }
}

/// Blocks in one piece are one run, however many they are.
#[test]
fn blocks_that_lie_together_are_read_together() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) =
        made("vhdx", "subformat=fixed,block_size=1M,block_state_zero=off", 24 << 20, &mut Random(12), folder.path());
    let opened = open(image).unwrap();
    assert_eq!(opened.disk.layer_at(512, 24 << 20).unwrap(), ((24 << 20) - 512, Some(0)));
    assert!(content(&*opened.disk) == raw);
}

#[test]
fn a_damaged_header_or_region_table_has_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = made("vhdx", "block_size=1M", 5 << 20, &mut Random(13), folder.path());
    for pair in [HEADERS, REGION_TABLES] {
        for at in pair {
            let mut damaged = image.clone();
            damaged[at + 30] ^= 1;
            assert!(content(&*open(damaged).unwrap().disk) == raw);
        }
        let mut damaged = image.clone();
        for at in pair {
            damaged[at + 30] ^= 1;
        }
        assert_eq!(refused(damaged).0, ErrorKind::Damaged);
    }
    // Of two valid headers the newer one counts; of two equally new ones with different content none.
    let sequence = |image: &[u8], at: usize| le64(image, at + 8);
    let newer = HEADERS.into_iter().max_by_key(|at| sequence(&image, *at)).unwrap();
    let mut changed = image.clone();
    put(&mut changed, newer + 32, b"another content!");
    seal_vhdx(&mut changed);
    let identity = open(changed.clone()).unwrap().members[0].info.identity.clone().unwrap();
    assert_eq!(identity, "746f6e61-6568-2072-636f-6e74656e7421");
    for at in HEADERS {
        put(&mut changed, at + 8, &7_u64.to_le_bytes());
    }
    seal_vhdx(&mut changed);
    assert!(refused(changed).1.contains("contradict"));
}

#[test]
fn what_is_needed_and_not_known_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = made("vhdx", "block_size=1M", 5 << 20, &mut Random(14), folder.path());
    let unknown: Vec<u8> = (1..=16).collect();
    let name = "04030201-0605-0807-090a-0b0c0d0e0f10";
    // One more region and one more item, needed and not.
    for needed in [0, 1] {
        let mut changed = image.clone();
        for table in REGION_TABLES {
            put(&mut changed, table + 8, &3_u32.to_le_bytes());
            put(&mut changed, table + 16 + 64, &unknown);
            changed[table + 16 + 64 + 28] = needed;
        }
        seal_vhdx(&mut changed);
        if needed == 1 {
            let (kind, told) = refused(changed);
            assert!(kind == ErrorKind::Unsupported && told.contains(name), "{told}");
        } else {
            assert!(content(&*open(changed).unwrap().disk) == raw);
        }
        let mut changed = image.clone();
        let table = region(&changed, METADATA);
        let count = changed[table + 10];
        changed[table + 10] += 1;
        let entry = table + 32 * (usize::from(count) + 1);
        put(&mut changed, entry, &unknown);
        changed[entry + 24] = needed << 2;
        if needed == 1 {
            let (kind, told) = refused(changed);
            assert!(kind == ErrorKind::Unsupported && told.contains(name), "{told}");
        } else {
            assert!(content(&*open(changed).unwrap().disk) == raw);
        }
    }
    let mut newer = image.clone();
    for at in HEADERS {
        newer[at + 66] = 2;
    }
    seal_vhdx(&mut newer);
    assert_eq!(refused(newer).0, ErrorKind::Unsupported);
    let mut zero = image;
    let at = item(&zero, FILE_PARAMETERS);
    zero[at..at + 4].fill(0);
    assert_eq!(refused(zero).0, ErrorKind::Damaged);
}

#[test]
fn every_state_of_a_block_is_what_it_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) =
        made("vhdx", "subformat=fixed,block_size=1M,block_state_zero=off", 8 << 20, &mut Random(15), folder.path());
    let opened = |state: u8| {
        let mut image = image.clone();
        let entry = bat(&image) + 8 * 3;
        image[entry] = image[entry] & !7 | state;
        open(image).unwrap()
    };
    let mut zeros = raw.clone();
    zeros[3 * MIB..4 * MIB].fill(0);
    for state in [0, 1, 2, 3, 5] {
        assert!(content(&*opened(state).disk) == zeros, "{state}");
    }
    assert!(content(&*opened(6).disk) == raw);
    for state in [4, 7] {
        let opened = opened(state);
        assert_eq!(opened.disk.extent_at(3 * MIB as u64).unwrap_err().kind(), ErrorKind::Damaged);
        touch(&opened);
    }
    // On the image's own tables, and behind the end of the file.
    for at in [0, bat(&image), image.len()] {
        let mut image = image.clone();
        let entry = bat(&image) + 8 * 3;
        put(&mut image, entry, &(at as u64 | 6).to_le_bytes());
        let opened = open(image).unwrap();
        assert_eq!(opened.disk.extent_at(3 * MIB as u64).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(opened.disk.layer_at(0, 8 << 20).unwrap(), (3 << 20, Some(0)));
    }
}

/// A child of `base`, an image with blocks of 1 MiB: `base`'s own file made into one whose blocks are at random its
/// parent's, its own or shared; and what the disk then holds.
fn differencing(base: &[u8], raw: &[u8], sector: usize, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let mut image = base.to_vec();
    let parent = HEADERS.into_iter().max_by_key(|at| le64(base, at + 8)).unwrap();
    let id = &base[parent + 32..parent + 48];
    let groups = [[3, 2, 1, 0].as_slice(), &[5, 4], &[7, 6], &[8, 9], &[10, 11, 12, 13, 14, 15]];
    let groups = groups.map(|group| group.iter().map(|i| format!("{:02X}", id[*i])).collect::<String>());
    let linkage = format!("{{{}}}", groups.join("-"));
    for at in HEADERS {
        put(&mut image, at + 32, b"the child's guid");
    }
    seal_vhdx(&mut image);
    let at = item(&image, FILE_PARAMETERS);
    image[at + 4] = 2;
    for guid in [LOGICAL_SECTOR_SIZE, PHYSICAL_SECTOR_SIZE] {
        let at = item(&image, guid);
        put(&mut image, at, &(sector as u32).to_le_bytes());
    }
    // The parent locator, behind all other items.
    let pairs = [
        ("absolute_win32_path", "C:\\VMs\\base.vhdx"),
        ("parent_linkage", linkage.as_str()),
        ("relative_path", ".\\base.vhdx"),
    ];
    let mut locator = vec![0; 20 + 12 * pairs.len()];
    put(
        &mut locator,
        0,
        &[0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13],
    );
    locator[18] = pairs.len() as u8;
    for (i, (key, value)) in pairs.into_iter().enumerate() {
        let (key, value) = (utf16le(key), utf16le(value));
        let (entry, at) = (20 + 12 * i, locator.len());
        put(&mut locator, entry, &(at as u32).to_le_bytes());
        put(&mut locator, entry + 4, &((at + key.len()) as u32).to_le_bytes());
        put(&mut locator, entry + 8, &(key.len() as u16).to_le_bytes());
        put(&mut locator, entry + 10, &(value.len() as u16).to_le_bytes());
        locator.extend([key, value].concat());
    }
    let table = region(&image, METADATA);
    put(&mut image, table + (512 << 10), &locator);
    let entry = table + 32 * (usize::from(image[table + 10]) + 1);
    image[table + 10] += 1;
    put(
        &mut image,
        entry,
        &[0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c],
    );
    put(&mut image, entry + 16, &(512_u32 << 10).to_le_bytes());
    put(&mut image, entry + 20, &(locator.len() as u32).to_le_bytes());
    image[entry + 24] = 4;
    // The one bitmap that these small images need, at the end of the file.
    let bitmap = image.len().next_multiple_of(MIB);
    image.resize(bitmap + MIB, 0);
    let (chunk, bat) = ((sector << 23) / MIB, bat(&image));
    put(&mut image, bat + 8 * chunk, &(bitmap as u64 | 6).to_le_bytes());
    let mut content = raw.to_vec();
    for number in 0..raw.len().div_ceil(MIB) {
        let (at, start) = (image.len(), number * MIB);
        let end = (start + MIB).min(content.len());
        let state = [0, 2, 6, 7, 7, 7][random.below(6) as usize];
        if state >= 6 {
            let bytes = random.bytes(MIB);
            image.extend_from_slice(&bytes);
            for sector_number in 0..MIB / sector {
                let first = start + sector_number * sector;
                let own = state == 6 || random.below(40) >= 20 + sector_number as u64 % 20;
                if own && first < end {
                    let last = (first + sector).min(end);
                    let bytes = bytes[first - start..last - start].to_vec();
                    put(&mut content, first, &bytes);
                }
                if own {
                    let bit = first / sector;
                    image[bitmap + bit / 8] |= 1 << (bit % 8);
                }
            }
        } else if state == 2 {
            content[start..end].fill(0);
        }
        put(&mut image, bat + 8 * number, &(at as u64 & !0xf_ffff | state).to_le_bytes());
    }
    (image, content)
}

#[test]
fn differencing_images_have_their_own_sectors_and_their_parents() {
    let mut random = Random(16);
    let folder = tempfile::tempdir().unwrap();
    for (sector, size) in [(512, (23 << 20) + 512), (4096, 23 << 20)] {
        let (base, raw) = made("vhdx", "block_size=1M", size, &mut random, folder.path());
        let (child, expected) = differencing(&base, &raw, sector, &mut random);
        let beside = Folder::of([("base.vhdx", base.clone())]);
        let opened = open_among("child.vhdx", child.clone(), &beside).unwrap();
        let info = &opened.members[0].info;
        assert_eq!(info.variant, "differencing");
        assert_eq!(info.block_sizes, if sector == 512 { BlockSizes::CLASSIC } else { BlockSizes::NATIVE_4K });
        let parent = info.parent.clone().unwrap();
        assert_eq!(parent.names, [".\\base.vhdx", "C:\\VMs\\base.vhdx"]);
        assert_eq!(parent.identity, opened.members[1].info.identity);
        assert_same(&opened.disk, &expected, &mut random);
        // The parent has been written to since.
        let mut changed = base;
        for at in HEADERS {
            changed[at + 32] ^= 1;
            crc(&mut changed[at..at + 4096]);
        }
        let beside = Folder::of([("base.vhdx", changed)]);
        assert_eq!(open_among("child.vhdx", child.clone(), &beside).err().unwrap().kind(), ErrorKind::Damaged);
        assert_eq!(refused(child.clone()).0, ErrorKind::Missing);
        // Without its bitmap.
        let mut child = child;
        let at = bat(&child) + 8 * ((sector << 23) / MIB);
        child[at] = 0;
        let shared = (0..23).find(|n| child[bat(&child) + 8 * n] & 7 == 7).unwrap() as u64;
        let beside = Folder::of([("base.vhdx", std::fs::read(folder.path().join("made.image")).unwrap())]);
        let opened = open_among("child.vhdx", child, &beside).unwrap();
        assert_eq!(opened.disk.extent_at(shared << 20).unwrap_err().kind(), ErrorKind::Damaged);
    }
}

#[test]
fn a_large_disk_is_opened_by_its_headers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.vhdx");
    run("qemu-img", ["create", "-q", "-f", "vhdx", path.to_str().unwrap(), "64T"]);
    let opened = open_beside(&path).unwrap();
    assert_eq!(opened.disk.size(), 64 << 40);
    let mut end = [0xff; 512];
    assert_eq!(opened.disk.read_at(&mut end, (64 << 40) - 512).unwrap(), 512);
    assert_eq!(end, [0; 512]);
}
