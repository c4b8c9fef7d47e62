//! Bundles that are wrong in one way each. Where a rule is about what was signed or logged, the rest is
//! signed and logged properly around it: such a bundle is what a dishonest signer could make.

mod bundles;
mod logs;
mod receipts;
mod statements;

pub use bundles::bundles;
pub use logs::logs;
pub use receipts::receipts;
pub use statements::statements;

use super::{
    files::{Files, V16_ZSTD},
    world::World,
};

const CANONICAL: &str = "is not canonical JSON of its form";

pub fn world() -> World {
    World::new(Files::new(V16_ZSTD)).without_keys()
}

pub fn restored() -> World {
    World::restored(Files::new(V16_ZSTD).attempt(2)).without_keys()
}
