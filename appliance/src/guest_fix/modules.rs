//! Kernel modules: where they are, what they need, and which are built in (`modules.dep`, `modules.builtin`; kmod).

use std::collections::{BTreeMap, BTreeSet};

/// The modules of one kernel.
#[derive(Debug, Default)]
pub struct Modules {
    /// By name: the file below `/lib/modules/<version>`, and those that it needs.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// From the texts of `modules.dep` and `modules.builtin`.
    pub fn parse(dep: &str, builtin: &str) -> Self {
        let mut files = BTreeMap::new();
        for line in dep.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_whitespace().map(name_of).collect();
            files.insert(name_of(file), (file.trim().to_owned(), needs));
        }
        Self { files, builtin: builtin.lines().map(name_of).collect() }
    }

    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.is_builtin(name) || self.files.contains_key(name)
    }

    /// The files that `name` needs, itself the last; none if it is built in or unknown.
    pub fn with_needs(&self, name: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        self.collect(name, &mut seen, &mut found);
        found
    }

    fn collect<'s>(&'s self, name: &str, seen: &mut BTreeSet<&'s str>, found: &mut Vec<&'s str>) {
        let Some((own, (file, needs))) = self.files.get_key_value(name) else { return };
        // `modules.dep` lists all that is needed, also indirectly, but a guest may have written anything.
        if seen.insert(own) && seen.len() < 1000 {
            needs.iter().for_each(|need| self.collect(need, seen, found));
            found.push(file);
        }
    }
}

/// The name of the module in a file: without folder and endings, `-` as `_`.
pub fn name_of(file: &str) -> String {
    let name = file.trim().rsplit('/').next().unwrap_or_default();
    name.split(".ko").next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first() {
        let dep =
            "kernel/b.ko: kernel/a-x.ko.zst\nkernel/a-x.ko.zst:\nkernel/c.ko: kernel/d.ko\nkernel/d.ko: kernel/c.ko\n";
        let modules = Modules::parse(dep, "kernel/fs/ext4.ko\n");
        assert_eq!(modules.with_needs("b"), ["kernel/a-x.ko.zst", "kernel/b.ko"]);
        assert_eq!(modules.with_needs("c"), ["kernel/d.ko", "kernel/c.ko"]);
        assert!(modules.with_needs("ext4").is_empty() && modules.has("ext4") && !modules.has("xfs"));
    }
}
