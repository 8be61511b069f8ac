//! Fuzzes the text of an ACL record.
//!
//!     cargo xtask fuzz acl

#![no_main]

/// A client whose users and groups nobody knows here.
struct NoNames;

impl volreader::acl::Names for NoNames {
    fn user(&self, _name: &[u8]) -> Option<u32> {
        None
    }

    fn group(&self, name: &[u8]) -> Option<u32> {
        u32::try_from(name.len()).ok()
    }
}
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = volreader::acl::parse(data, &NoNames) {
        assert_eq!(entries.to_kernel().len(), 4 + 8 * entries.as_slice().len());
    }
});
