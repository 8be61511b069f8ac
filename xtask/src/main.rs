//! tmp
mod bench;
mod cmd;
fn main() -> anyhow::Result<()> {
    use bench::fixtures::*;
    let f = Fixtures::new(std::path::Path::new("/tmp/bench"), "MD5")?;
    for k in [Kind::Big, Kind::Gzip, Kind::Lzo] {
        println!("{:?}", f.get(k)?);
    }
    Ok(())
}
