//! The committed definitions are those that the types make.

use std::path::Path;

#[test]
fn the_committed_definitions_are_what_crdgen_writes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in [root.join("yaml"), root.join("../charts/fettle/files/crds")] {
        for (name, yaml) in fettle_crds::schema::documents().unwrap() {
            let path = folder.join(&name);
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == yaml,
                "{} is not up to date: run `make generate` and commit the result",
                path.display()
            );
        }
    }
}
