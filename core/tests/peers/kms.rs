//! The KMS keyring against an emulator.

use aws_sdk_kms::types::{KeySpec, KeyUsageType};
use walwarden_core::keyring::{
    Context, KeySet, KeyUse, Keyring, KeyringError, KmsConfig, KmsKey, KmsKeyring, MAX_MESSAGE_BYTES, Sealed,
};
use walwarden_tests::Ministack;

use crate::{aws::sdk, world::org};

async fn create(kms: &aws_sdk_kms::Client, spec: KeySpec, usage: KeyUsageType) -> String {
    let made = kms.create_key().key_spec(spec).key_usage(usage).send().await.unwrap();
    made.key_metadata.unwrap().arn.unwrap()
}

async fn keys(kms: &aws_sdk_kms::Client) -> KmsConfig {
    let mut signing = Vec::new();
    for _ in 0..3 {
        let key_id = create(kms, KeySpec::EccNistEdwards25519, KeyUsageType::SignVerify).await;
        signing.push(KmsKey { key_id, not_before: Some("2026-11-24T00:00:00.000Z".into()) });
    }
    KmsConfig {
        receipt: signing.pop().unwrap(),
        checkpoint: signing.pop().unwrap(),
        manifest: signing.pop().unwrap(),
        mac_key_id: create(kms, KeySpec::Hmac256, KeyUsageType::GenerateVerifyMac).await,
        encryption_key_id: create(kms, KeySpec::SymmetricDefault, KeyUsageType::EncryptDecrypt).await,
        retired: KeySet::default(),
    }
}

#[tokio::test]
async fn signs_macs_and_encrypts() {
    let stack = Ministack::start().unwrap();
    let aws = sdk(&stack);
    let kms = aws_sdk_kms::Client::new(&aws);
    let config = keys(&kms).await;
    let keyring = Keyring::Kms(KmsKeyring::connect(&aws, config.clone()).await.unwrap());

    let longest = vec![b'm'; MAX_MESSAGE_BYTES];
    for key_use in KeyUse::ALL {
        for message in [b"short".as_slice(), &longest] {
            let (id, signature) = keyring.sign(key_use, message).await.unwrap();
            let key = keyring.public_keys().by_id(&id).unwrap();
            assert!(key.verify(message, &signature) && !key.verify(b"other", &signature));
            assert!(KeyUse::ALL.into_iter().all(|other| key.is_for(other) == (other == key_use)));
            assert_eq!(keyring.current_key(key_use), id);
        }
    }
    assert_eq!(KeySet::from_pem(&keyring.public_keys().to_pem()).unwrap().keys().len(), 3);
    let too_long = vec![0; MAX_MESSAGE_BYTES + 1];
    assert!(matches!(keyring.sign(KeyUse::Manifest, &too_long).await, Err(KeyringError::TooLong { .. })));

    let (id, mac) = keyring.mac(b"token").await.unwrap();
    assert_eq!(keyring.mac_key_id(), id);
    assert!(keyring.verify_mac(&id, b"token", &mac).await.unwrap());
    let mut changed = mac.clone();
    changed[31] ^= 1;
    for (id, message, mac) in [
        (id.as_str(), b"token".as_slice(), changed.as_slice()),
        (&id, b"tokem", &mac),
        (&id, b"token", &mac[..31]),
        ("other", b"token", &mac),
        (&id, b"", &mac),
        (&id, &too_long, &mac),
    ] {
        assert!(!keyring.verify_mac(id, message, mac).await.unwrap());
    }

    let org = org();
    let context = Context { org: &org, kind: "database", id: "db_1", field: "dsn" };
    let secret = b"postgres://u:p@h/db".as_slice();
    let sealed = keyring.encrypt(&context, secret).await.unwrap();
    assert_eq!(keyring.decrypt(&context, &sealed).await.unwrap().as_slice(), secret);
    assert_ne!(sealed, keyring.encrypt(&context, secret).await.unwrap());
    assert!(!sealed.as_str().contains("postgres"));
    let elsewhere = Context { id: "db_2", ..context };
    assert!(matches!(keyring.decrypt(&elsewhere, &sealed).await, Err(KeyringError::Sealed(_))));
    let mut text = sealed.as_str().to_owned();
    let last = text.pop().unwrap();
    text.push(if last == 'A' { 'Q' } else { 'A' });
    assert!(matches!(keyring.decrypt(&context, &Sealed::from_stored(text)).await, Err(KeyringError::Sealed(_))));

    // Keys of another kind, and one key for two uses, are found out at the start.
    let wrong = KmsConfig {
        manifest: KmsKey {
            key_id: create(&kms, KeySpec::EccNistP256, KeyUsageType::SignVerify).await,
            not_before: None,
        },
        ..config.clone()
    };
    assert!(matches!(KmsKeyring::connect(&aws, wrong).await, Err(KeyringError::KmsKey { purpose: "manifest", .. })));
    let twice = KmsConfig { receipt: config.manifest.clone(), ..config.clone() };
    assert!(matches!(KmsKeyring::connect(&aws, twice).await, Err(KeyringError::KmsKey { purpose: "receipt", .. })));
    let absent = KmsConfig {
        checkpoint: KmsKey { key_id: "00000000-0000-0000-0000-000000000000".into(), not_before: None },
        ..config
    };
    let error = KmsKeyring::connect(&aws, absent).await.unwrap_err();
    assert!(
        matches!(&error, KeyringError::Kms { operation: "GetPublicKey", code, passing: false } if code == "NotFoundException"),
        "{error}"
    );

    drop(stack);
    let error = keyring.sign(KeyUse::Manifest, b"m").await.unwrap_err();
    assert!(error.is_passing(), "{error}");
}
