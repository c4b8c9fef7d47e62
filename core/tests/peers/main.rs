//! Destinations and the KMS keyring against real peers: SeaweedFS, and an emulator of AWS that enforces identities.

mod aws;
mod destinations;
mod kms;
mod world;
