// SPDX-License-Identifier: Apache-2.0
//! `docs/configuration.md` is generated from the registry; `BALLISTA_UPDATE_DOCS=1 cargo test -p ballista-core` writes it.

use std::path::Path;

use ballista_core::BallistaConfig;

fn page() -> String {
    let mut page = String::from(
        "# Session settings\n\n\
         Generated from the registry in `core/src/config.rs`; do not edit by hand.\n\n\
         Set with `SET key = value` in SQL, or on the `SessionConfig` of the session. They travel with every query, as do\n\
         the `datafusion.*` keys that differ from DataFusion's defaults. An unknown `ballista.*` key is an error.\n\n\
         | key | type | default | meaning |\n|---|---|---|---|\n",
    );
    for entry in BallistaConfig::default().entries() {
        let default = if entry.value.is_empty() { "(empty)" } else { &entry.value };
        page.push_str(&format!("| `{}` | {} | {default} | {} |\n", entry.key, entry.kind, entry.doc));
    }
    page
}

#[test]
fn the_configuration_page_is_what_the_registry_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("BALLISTA_UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, page(), "run BALLISTA_UPDATE_DOCS=1 cargo test -p ballista-core");
}
