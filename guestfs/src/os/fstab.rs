//! `/etc/fstab`: which filesystems a Unix mounts where.

/// Lines that are read: far more than any machine has.
const LINES_MAX: usize = 10_000;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What is mounted.
    pub device: Vec<u8>,
    /// Where: an absolute path without a slash at its end; `/` for the root.
    pub path: Vec<u8>,
    options: Vec<Vec<u8>>,
}

impl Line {
    /// The value of the option `name=value`.
    pub fn option(&self, name: &[u8]) -> Option<&[u8]> {
        self.options.iter().rev().find_map(|option| option.strip_prefix(name)?.strip_prefix(b"="))
    }

    fn is(&self, name: &[u8]) -> bool {
        self.options.iter().any(|option| option == name)
    }
}

/// The lines of `text` that mount filesystems of devices. What is no such line is left out, as `mount -a` does.
pub fn parse(text: &[u8]) -> Vec<Line> {
    text.split(|b| *b == b'\n').take(LINES_MAX).filter_map(line).collect()
}

fn line(text: &[u8]) -> Option<Line> {
    let text = text.trim_ascii();
    if text.starts_with(b"#") {
        return None;
    }
    let mut fields = text.split(|b| matches!(b, b' ' | b'\t')).filter(|field| !field.is_empty()).map(unescaped);
    let (device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
    let options = fields.next().unwrap_or_default();
    let options = options.split(|b| *b == b',').map(<[u8]>::to_vec).collect();
    let line = Line { device, path: normal(&path)?, options };
    let is_bind = line.is(b"bind") || line.is(b"rbind");
    (kind != b"swap" && kind != b"none" && !is_bind).then_some(line)
}

/// An absolute path without empty components; one with `..` means nobody knows what.
fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let names: Vec<_> = path.strip_prefix(b"/")?.split(|b| *b == b'/').filter(|n| !matches!(*n, b"" | b".")).collect();
    if names.contains(&&b".."[..]) {
        return None;
    }
    Some([b"/".as_slice(), &names.join(&b'/')].concat())
}

/// A field without its octal escapes (`\040` is a blank).
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                rest = tail.get(3..).unwrap_or_default();
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(*first));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_devices_are_read() {
        let text = b"# a comment\n\
            UUID=1 / ext4 errors=remount-ro 0 1\n\
            \t/dev/mapper/a--b-c\t/srv/my\\040data/\txfs\tdefaults\n\
            UUID=2 none swap sw 0 0\n\
            UUID=2 swap swap sw 0 0\n\
            /srv /export none bind 0 0\n\
            /srv /export2 auto defaults,rbind 0 0\n\
            LABEL=x /home btrfs subvol=@home,subvol=@h2,noatime";
        let lines = parse(text);
        let shown: Vec<_> = lines.iter().map(|l| (l.device.as_slice(), l.path.as_slice())).collect();
        let expected: [(&[u8], &[u8]); 3] =
            [(b"UUID=1", b"/"), (b"/dev/mapper/a--b-c", b"/srv/my data"), (b"LABEL=x", b"/home")];
        assert_eq!(shown, expected);
        assert_eq!(lines[2].option(b"subvol"), Some(&b"@h2"[..]));
        assert_eq!(lines[0].option(b"subvol"), None);
    }

    #[test]
    fn hostile_lines_are_harmless() {
        let mut text =
            b"\\\nUUID=\nUUID= / \nx ../etc auto\nx /a/../../b auto d\n\\0 /\\777\\1 \xff\xfe ,,,=\n\0\0\0 / /\n"
                .to_vec();
        text.extend(vec![b' '; 1 << 16]);
        text.extend(b"x / ext4 d".repeat(10_000));
        for line in parse(&text) {
            assert!(line.path.starts_with(b"/") && !line.path.windows(2).any(|w| w == b".."), "{line:?}");
        }
        assert!(parse(&b"a /b ext4\n".repeat(LINES_MAX + 5)).len() <= LINES_MAX);
    }
}
