//! The fuzzer's seeds are the goldens, in binary, and all of them in one stream; whatever else lies there was found by
//! the fuzzer and is kept. All of it runs through the fuzzer's checks here too.

use std::path::{Path, PathBuf};

use crate::{dialects, goldens, invariants};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decode")
}

#[test]
fn every_golden_is_a_seed() {
    let mut seeds = goldens::files();
    let stream = seeds.values().flatten().copied().collect();
    seeds.insert("all-in-one-stream".into(), stream);
    seeds.extend(dialects::files());
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    for (name, bytes) in seeds {
        let path = folder().join(name);
        if update {
            std::fs::write(&path, &bytes).unwrap();
        }
        let found = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: UPDATE_CORPUS=1", path.display()));
        assert_eq!(found, bytes, "{} is out of date: UPDATE_CORPUS=1", path.display());
    }
}

#[test]
fn every_seed_holds_what_the_fuzzer_checks() {
    let mut seeds = 0;
    for entry in folder().read_dir().unwrap() {
        invariants::decode(&std::fs::read(entry.unwrap().path()).unwrap());
        seeds += 1;
    }
    assert!(seeds > goldens::files().len(), "{seeds} seeds");
}
