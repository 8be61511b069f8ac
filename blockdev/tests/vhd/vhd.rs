//! VHD.

use blockdev::{
    ErrorKind, ReadAt, Result,
    images::{Disk, Format, detect},
};

use crate::{
    common::{Folder, Random, assert_same, open as open_beside, qemu_raw, run, touch, write_sparse},
    edit::{be32, content, made, open, open_among, put, refused, seal_vhd, sum, utf16le},
};

const BLOCK: usize = 2 << 20;
const FOOTER: usize = 512;

#[test]
fn qemu_images_have_qemus_content() {
    let mut random = Random(1);
    for subformat in ["fixed", "dynamic"] {
        for force_size in ["on", "off"] {
            for size in [512, (1 << 20) + 512, 37 << 20, (131 << 20) - 512] {
                let folder = tempfile::tempdir().unwrap();
                let [source, image, raw] = ["source", "disk.vhd", "raw"].map(|name| folder.path().join(name));
                write_sparse(&source, size, &mut random);
                let options = format!("subformat={subformat},force_size={force_size}");
                let arguments = ["convert", "-f", "raw", "-O", "vpc", "-o", &options];
                let paths = [source.as_os_str(), image.as_os_str()];
                run("qemu-img", arguments.into_iter().map(AsRef::as_ref).chain(paths));
                let expected = qemu_raw("vpc", &image, &raw);
                let opened = open_beside(&image).unwrap();
                assert_eq!(opened.members[0].info.format, Format::Vhd);
                assert_eq!(opened.members[0].info.variant, subformat);
                assert_same(&opened.disk, &expected, &mut random);
                // The rest of the geometry is zeros; the start is what went in.
                assert!(content(&*opened.disk)[..size as usize] == std::fs::read(&source).unwrap());
            }
        }
    }
}

/// Which of geometry and size field counts is QEMU's rule, so QEMU is asked.
#[test]
fn the_size_is_the_one_that_qemu_sees() {
    let folder = tempfile::tempdir().unwrap();
    let (image, _) = made("vpc", "subformat=dynamic,force_size=on", 5 << 20, &mut Random(2), folder.path());
    let path = folder.path().join("disk.vhd");
    // Of others, such as "wa\0\0" and "vs  ", QEMU thinks otherwise since version 10.
    let creators = [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS"];
    let mut sizes = std::collections::BTreeSet::new();
    for creator in creators {
        // 2 MiB, and the largest geometry there is.
        for geometry in [[0, 64, 4, 16], [0xff, 0xff, 16, 255]] {
            let mut image = image.clone();
            for at in [0, image.len() - FOOTER] {
                put(&mut image, at + 28, creator);
                put(&mut image, at + 56, &geometry);
            }
            seal_vhd(&mut image);
            std::fs::write(&path, &image).unwrap();
            let output = std::process::Command::new("qemu-img")
                .args(["info", "-f", "vpc", "--output=json"])
                .arg(&path)
                .output()
                .unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            // The file's own size comes first.
            let wanted = output.rsplit_once("\"virtual-size\": ").unwrap().1.split_once(',').unwrap().0;
            let opened = open(image).unwrap();
            let size = opened.members[0].info.virtual_size;
            assert_eq!(size.to_string(), wanted, "{creator:?} {geometry:?}");
            assert_eq!(size == 2 << 20, !opened.members[0].info.notes.is_empty(), "a smaller size is told");
            sizes.insert(size);
        }
    }
    assert_eq!(sizes.len(), 2, "both rules were at work");
}

#[test]
fn a_damaged_footer_has_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = made("vpc", "subformat=dynamic,force_size=on", 5 << 20, &mut Random(3), folder.path());
    for damage in [1, FOOTER] {
        let mut damaged = image.clone();
        let at = damaged.len() - FOOTER;
        damaged[at..at + damage].fill(b'!');
        let opened = open(damaged).unwrap();
        assert!(opened.members[0].info.notes[0].contains("copy"));
        assert!(content(&*opened.disk) == raw);
    }
    // Cut off behind the last block, and the copy damaged too.
    let mut cut = image[..image.len() - FOOTER].to_vec();
    assert!(content(&*open(cut.clone()).unwrap().disk) == raw);
    cut[100] ^= 1;
    assert_eq!(refused(cut).0, ErrorKind::Damaged);
    let mut header = image;
    header[512 + 700] ^= 1;
    let (kind, told) = refused(header);
    assert!(kind == ErrorKind::Damaged && told.contains("checksum"), "{told}");
}

#[test]
fn old_footers_lack_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    for subformat in ["fixed", "dynamic"] {
        let options = format!("subformat={subformat},force_size=on");
        let (mut image, raw) = made("vpc", &options, 3 << 20, &mut Random(4), folder.path());
        assert_eq!(image.pop(), Some(0));
        let opened = open(image).unwrap();
        assert_eq!(opened.members[0].info.variant, subformat);
        assert!(opened.members[0].info.notes.is_empty(), "the footer at the end was found");
        assert!(content(&*opened.disk) == raw);
    }
}

/// The last sector of a raw disk is its guest's, who may write a footer there.
#[test]
fn a_footer_is_believed_only_if_all_of_it_fits() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = made("vpc", "subformat=fixed,force_size=on", 3 << 20, &mut Random(5), folder.path());
    let changed = |change: &dyn Fn(&mut [u8])| {
        let mut image = image.clone();
        let end = image.len() - FOOTER;
        change(&mut image[end..]);
        sum(&mut image[end..], 64);
        detect(&image).unwrap()
    };
    assert_eq!(changed(&|_| ()), Format::Vhd);
    assert_eq!(changed(&|footer| footer[0] = b'C'), Format::Raw);
    assert_eq!(changed(&|footer| footer[63] = 3), Format::Raw, "a dynamic one has a head");
    assert_eq!(changed(&|footer| footer[54] ^= 2), Format::Raw, "another size");
    let mut wrong = image.clone();
    *wrong.last_mut().unwrap() = 1;
    assert_eq!(detect(&wrong).unwrap(), Format::Raw, "the checksum is wrong");
    // A partition table that ends with the file, in sectors of either size, and one that ends with the disk.
    for (sector, last, format) in [(512, 0, Format::Raw), (512, 1, Format::Vhd), (4096, 0, Format::Raw)] {
        let mut image = image.clone();
        // Whole sectors of either size.
        image.splice(0..0, vec![0; 4096 - FOOTER]);
        let len = image.len();
        put(&mut image[len - FOOTER..], 48, &((len - FOOTER) as u64).to_be_bytes());
        seal_vhd(&mut image);
        put(&mut image, sector, b"EFI PART");
        put(&mut image, sector + 32, &((len / sector - 1 - last) as u64).to_le_bytes());
        assert_eq!(detect(&image).unwrap(), format, "{sector} {last}");
    }
    // The first sector of a fixed image is its guest's, who may write the head of a dynamic one there.
    let (mut head, _) = made("vpc", "subformat=dynamic,force_size=on", 3 << 20, &mut Random(6), folder.path());
    head.truncate(4096);
    let mut forged = image;
    put(&mut forged, 0, &head);
    let opened = open(forged).unwrap();
    assert_eq!(opened.members[0].info.variant, "fixed");
    let read = content(&*opened.disk);
    assert!(read[..4096] == head && read[4096..] == raw[4096..]);
}

#[test]
fn only_xenservers_bitmaps_of_dynamic_images_count() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = made("vpc", "subformat=dynamic,force_size=on", 8 << 20, &mut Random(7), folder.path());
    let table = be32(&image, 512 + 20) as usize;
    let block = be32(&image, table) as usize * 512;
    for (creator, counts) in [(b"tap\0", true), (b"qem2", false)] {
        let mut image = image.clone();
        for at in [0, image.len() - FOOTER] {
            put(&mut image, at + 28, creator);
        }
        // Sectors 3 and 8 to 15 are not there.
        image[block] &= !0x10;
        image[block + 1] = 0;
        seal_vhd(&mut image);
        let mut expected = raw.clone();
        if counts {
            expected[3 * 512..4 * 512].fill(0);
            expected[8 * 512..16 * 512].fill(0);
        }
        assert!(content(&*open(image).unwrap().disk) == expected, "{creator:?}");
    }
}

/// A differencing image of `raw`'s size on the image with unique id `parent`, whose blocks and sectors are its own at
/// random; and what the disk then holds.
fn differencing(raw: &[u8], parent: &[u8], names: [&str; 3], random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let blocks = raw.len().div_ceil(BLOCK);
    let mut footer = [0; FOOTER];
    put(&mut footer, 0, b"conectix\0\0\0\x02\0\x01\0\0\0\0\0\0\0\0\x02\0\0\0\0\0win ");
    put(&mut footer, 48, &(raw.len() as u64).to_be_bytes());
    footer[63] = 4;
    put(&mut footer, 68, b"the child's uuid");
    let mut header = [0; 1024];
    put(&mut header, 0, b"cxsparse\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\x20\0\0\x01\0\0");
    put(&mut header, 28, &(blocks as u32).to_be_bytes());
    put(&mut header, 32, &(BLOCK as u32).to_be_bytes());
    put(&mut header, 40, parent);
    let [unicode, relative, absolute] = names;
    put(&mut header, 64, &unicode.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
    let mut image = [&footer[..], &header].concat();
    image.resize(16 << 10, 0);
    for (i, (code, name)) in [(b"W2ku", absolute), (b"W2ru", relative)].into_iter().enumerate() {
        let (name, at) = (utf16le(name), 0x1000 + i * 512);
        let entry = 512 + 576 + 24 * i;
        put(&mut image, entry, code);
        put(&mut image, entry + 4, &512_u32.to_be_bytes());
        put(&mut image, entry + 8, &(name.len() as u32).to_be_bytes());
        put(&mut image, entry + 16, &(at as u64).to_be_bytes());
        put(&mut image, at, &name);
    }
    let mut content = raw.to_vec();
    for number in 0..blocks {
        if random.below(3) == 0 {
            put(&mut image, 0x2000 + 4 * number, &u32::MAX.to_be_bytes());
            continue;
        }
        let block = image.len();
        put(&mut image, 0x2000 + 4 * number, &(block as u32 / 512).to_be_bytes());
        image.resize(block + 512 + BLOCK, 0x55);
        image[block..block + 512].fill(0);
        let mut sector = random.below(20) as usize;
        while sector < BLOCK / 512 {
            let longest = 1 << random.below(10);
            let end = (sector + 1 + random.below(longest) as usize).min(BLOCK / 512);
            for own in sector..end {
                image[block + own / 8] |= 0x80 >> (own % 8);
                let bytes = random.bytes(512);
                put(&mut image, block + 512 + own * 512, &bytes);
                let at = number * BLOCK + own * 512;
                if at < content.len() {
                    put(&mut content, at, &bytes);
                }
            }
            sector = end + 1 + random.below(longest) as usize;
        }
    }
    image.extend_from_slice(&footer);
    seal_vhd(&mut image);
    (image, content)
}

#[test]
fn differencing_images_have_their_own_sectors_and_their_parents() {
    let mut random = Random(8);
    let folder = tempfile::tempdir().unwrap();
    for subformat in ["fixed", "dynamic"] {
        let options = format!("subformat={subformat},force_size=on");
        let (base, raw) = made("vpc", &options, (21 << 20) + 512, &mut random, folder.path());
        let id = |image: &[u8]| image[image.len() - FOOTER..][68..84].to_vec();
        let names = ["base.vhd", ".\\base.vhd", "C:\\VMs\\base.vhd"];
        let (child, expected) = differencing(&raw, &id(&base), names, &mut random);
        let names = ["old name.vhd", "..\\elsewhere\\child.vhd", "D:\\x.vhd"];
        let (grandchild, top) = differencing(&expected, &id(&child), names, &mut random);
        let beside = Folder::of([("base.vhd", base.clone()), ("child.vhd", child.clone())]);
        let opened = open_among("child.vhd", child.clone(), &beside).unwrap();
        assert_same(&opened.disk, &expected, &mut random);
        let opened = open_among("top.vhd", grandchild.clone(), &beside).unwrap();
        assert_eq!(
            opened.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
            ["top.vhd", "child.vhd", "base.vhd"]
        );
        let parent = opened.members[0].info.parent.clone().unwrap();
        assert_eq!(parent.names, ["..\\elsewhere\\child.vhd", "D:\\x.vhd", "old name.vhd"]);
        assert_eq!(parent.identity, opened.members[1].info.identity);
        assert_same(&opened.disk, &top, &mut random);
        // Another disk of that name, and none.
        let beside = Folder::of([("child.vhd", base)]);
        assert_eq!(open_among("top.vhd", grandchild.clone(), &beside).err().unwrap().kind(), ErrorKind::Damaged);
        assert_eq!(refused(grandchild).0, ErrorKind::Missing);
        libvhdi_agrees(&child, &expected, &folder.path().join("child.vhd"), folder.path());
    }
}

/// Another implementation reads the image made here as we do, where it is installed.
fn libvhdi_agrees(child: &[u8], expected: &[u8], path: &std::path::Path, folder: &std::path::Path) {
    const SCRIPT: &str = "
import sys
try: import pyvhdi
except ImportError: sys.exit(3)
base, child = pyvhdi.file(), pyvhdi.file()
base.open(sys.argv[1]); child.open(sys.argv[2]); child.set_parent(base)
sys.stdout.buffer.write(child.read_buffer(child.get_media_size()))
";
    std::fs::write(path, child).unwrap();
    let base = folder.join("made.image");
    let output = std::process::Command::new("python3").args(["-c", SCRIPT]).args([&base, path]).output();
    match output {
        Ok(output) if output.status.success() => assert!(output.stdout == expected, "libvhdi reads something else"),
        Ok(output) if output.status.code() != Some(3) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        _ => eprintln!("skipped: pyvhdi is not installed"),
    }
}

fn read_all(disk: &Disk, bytes: &mut [u8], at: usize) -> Result<()> {
    let n = disk.read_at(bytes, at as u64)?;
    assert_eq!(n, bytes.len());
    Ok(())
}

#[test]
fn what_is_cut_off_is_damaged_and_the_rest_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = made("vpc", "subformat=dynamic,force_size=on", 8 << 20, &mut Random(9), folder.path());
    let table = be32(&image, 512 + 20) as usize;
    let block = |number: usize| be32(&image, table + 4 * number) as usize * 512;
    // Within the block that lies last: all four are there, in the order in which they were written.
    let last = (0..4).max_by_key(|n| block(*n)).unwrap();
    let opened = open(image[..block(last) + 512 + 1000].to_vec()).unwrap();
    let mut bytes = vec![0; BLOCK];
    for number in (0..4).filter(|n| *n != last) {
        read_all(&opened.disk, &mut bytes, number * BLOCK).unwrap();
        assert!(bytes == raw[number * BLOCK..][..BLOCK]);
    }
    read_all(&opened.disk, &mut bytes[..1000], last * BLOCK).unwrap();
    assert!(bytes[..1000] == raw[last * BLOCK..][..1000]);
    let error = read_all(&opened.disk, &mut bytes, last * BLOCK).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    // A block that lies on the table.
    let mut image = image.clone();
    put(&mut image, table, &((table / 512) as u32).to_be_bytes());
    let opened = open(image).unwrap();
    assert_eq!(read_all(&opened.disk, &mut bytes, 0).unwrap_err().kind(), ErrorKind::Damaged);
    touch(&opened);
}

#[test]
fn a_large_disk_is_opened_by_its_headers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.vhd");
    run("qemu-img", ["create", "-q", "-f", "vpc", path.to_str().unwrap(), "2040G"]);
    let opened = open_beside(&path).unwrap();
    assert!(opened.disk.size() >= 2039 << 30);
}
