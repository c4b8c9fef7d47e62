//! Reads one thing out of a bucket policy: whether it denies everybody everything without TLS.
//! Anything narrower, or written in a way not understood here, does not count.

use serde_json::Value;

/// Whether `policy` denies every S3 action over plain HTTP, on the bucket and its objects, to everybody.
pub(super) fn denies_plain_http(policy: &str, bucket: &str) -> bool {
    let Ok(policy) = serde_json::from_str::<Value>(policy) else { return false };
    let denying: Vec<&Value> =
        each(&policy["Statement"]).into_iter().filter(|statement| is_denial(statement)).collect();
    // Two statements, one for the bucket and one for its objects, do as well as one.
    let covers = |resource: &str| {
        denying.iter().any(|statement| {
            each(&statement["Resource"]).iter().any(|r| r.as_str().is_some_and(|r| matches(r, resource)))
        })
    };
    let partitions = ["aws", "aws-cn", "aws-us-gov"];
    partitions.iter().any(|partition| {
        covers(&format!("arn:{partition}:s3:::{bucket}")) && covers(&format!("arn:{partition}:s3:::{bucket}/any"))
    })
}

fn is_denial(statement: &Value) -> bool {
    let all_actions =
        each(&statement["Action"]).iter().any(|action| matches!(action.as_str(), Some("*" | "s3:*" | "S3:*")));
    let everybody =
        statement["Principal"] == "*" || each(&statement["Principal"]["AWS"]).iter().any(|who| **who == "*");
    statement["Effect"] == "Deny" && all_actions && everybody && only_without_tls(&statement["Condition"])
}

// Exactly this condition: a second one would narrow the denial.
fn only_without_tls(condition: &Value) -> bool {
    let Some(operators) = condition.as_object().filter(|operators| operators.len() == 1) else { return false };
    let Some(keys) = operators.get("Bool").and_then(Value::as_object).filter(|keys| keys.len() == 1) else {
        return false;
    };
    keys.iter().all(|(key, value)| {
        let values = each(value);
        key.eq_ignore_ascii_case("aws:SecureTransport")
            && !values.is_empty()
            && values.iter().all(|v| **v == "false" || **v == false)
    })
}

fn matches(pattern: &str, resource: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == resource,
        Some((start, "")) => resource.starts_with(start),
        Some(_) => false,
    }
}

// Policies write one thing as itself and several as a list.
fn each(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(all) => all.iter().collect(),
        one => vec![one],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"Version":"2012-10-17","Statement":[{"Sid":"DenyNonTLS","Effect":"Deny","Principal":"*","Action":"s3:*",
        "Resource":["arn:aws:s3:::my-bucket","arn:aws:s3:::my-bucket/*"],"Condition":{"Bool":{"aws:SecureTransport":"false"}}}]}"#;

    #[test]
    fn only_a_whole_denial_counts() {
        assert!(denies_plain_http(GOOD, "my-bucket"));
        assert!(denies_plain_http(&GOOD.replace(r#""Principal":"*""#, r#""Principal":{"AWS":"*"}"#), "my-bucket"));
        assert!(denies_plain_http(
            &GOOD.replace(r#"["arn:aws:s3:::my-bucket","arn:aws:s3:::my-bucket/*"]"#, r#""*""#),
            "my-bucket"
        ));
        for (from, to) in [
            ("Deny\"", "Allow\""),
            (r#""Principal":"*""#, r#""Principal":{"AWS":"arn:aws:iam::123456789012:root"}"#),
            ("s3:*", "s3:GetObject"),
            (r#","arn:aws:s3:::my-bucket/*""#, ""),
            (r#""arn:aws:s3:::my-bucket","#, ""),
            (r#""false""#, r#""true""#),
            (r#"{"Bool":{"#, r#"{"StringEquals":{"aws:SourceVpc":"vpc-1"},"Bool":{"#),
            (r#""aws:SecureTransport":"false""#, r#""aws:SecureTransport":"false","aws:ViaAWSService":"false""#),
            ("Condition", "Conditions"),
        ] {
            assert_ne!(GOOD.replace(from, to), GOOD);
            assert!(!denies_plain_http(&GOOD.replace(from, to), "my-bucket"), "{from} -> {to}");
        }
        assert!(!denies_plain_http(GOOD, "my-bucket2"));
        assert!(!denies_plain_http("", "my-bucket"));
    }
}
