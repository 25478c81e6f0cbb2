//! EC2's names for things, each a type of its own that cannot hold nonsense.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not {expected}")]
pub struct IdError {
    /// The text as given (at most its first 64 characters).
    pub value: String,
    /// What was expected, with its article: "an instance id (i-…)".
    pub expected: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// What a valid one looks like, for messages.
            pub const EXPECTED: &'static str = $expected;

            /// The id as EC2 writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError {
                        value: text.chars().take(64).collect(),
                        expected: $expected,
                    })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// An EC2 instance, `i-0123456789abcdef0`.
    InstanceId, "an instance id (i-…)", |text| is_resource(text, "i-")
);
id!(
    /// A VPC, `vpc-0123456789abcdef0`.
    VpcId, "a VPC id (vpc-…)", |text| is_resource(text, "vpc-")
);
id!(
    /// A subnet, `subnet-0123456789abcdef0`.
    SubnetId, "a subnet id (subnet-…)", |text| is_resource(text, "subnet-")
);
id!(
    /// A VPC route table, `rtb-0123456789abcdef0`.
    RouteTableId, "a route table id (rtb-…)", |text| is_resource(text, "rtb-")
);
id!(
    /// A network interface, `eni-0123456789abcdef0`.
    InterfaceId, "a network interface id (eni-…)", |text| is_resource(text, "eni-")
);
id!(
    /// A security group, `sg-0123456789abcdef0`.
    SecurityGroupId, "a security group id (sg-…)", |text| is_resource(text, "sg-")
);
id!(
    /// An Elastic IP address that an account holds, `eipalloc-0123456789abcdef0`.
    AllocationId, "an Elastic IP's allocation id (eipalloc-…)",
    |text| is_resource(text, "eipalloc-")
);
id!(
    /// That an Elastic IP address is somewhere, `eipassoc-0123456789abcdef0`.
    AssociationId, "an Elastic IP's association id (eipassoc-…)",
    |text| is_resource(text, "eipassoc-")
);
id!(
    /// A managed prefix list, `pl-0123456789abcdef0`.
    PrefixListId, "a prefix list id (pl-…)", |text| is_resource(text, "pl-")
);
id!(
    /// An AWS account: twelve digits.
    AccountId, "an account id (12 digits)",
    |text| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
);
id!(
    /// An AWS region, `eu-west-1`.
    Region, "a region such as eu-west-1", is_region
);
id!(
    /// An availability zone, `eu-west-1a` (local zones are longer).
    Zone, "an availability zone such as eu-west-1a",
    |text| text.len() <= 32 && is_word(text) && text.contains('-')
);

fn is_resource(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        (8..=32).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    text.len() <= 32
        && is_word(text)
        && parts.len() >= 3
        && parts.iter().all(|part| !part.is_empty())
        && parts
            .last()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_word(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ec2_ids_parse() {
        assert!("i-0123456789abcdef0".parse::<InstanceId>().is_ok());
        assert!("vpc-1a2b3c4d".parse::<VpcId>().is_ok());
        assert!("subnet-1a2b3c4d".parse::<SubnetId>().is_ok());
        assert!("rtb-0123456789abcdef0".parse::<RouteTableId>().is_ok());
        assert!("eni-0123456789abcdef0".parse::<InterfaceId>().is_ok());
        assert!("eipalloc-0123456789abcdef0".parse::<AllocationId>().is_ok());
        assert!(
            "eipassoc-0123456789abcdef0"
                .parse::<AssociationId>()
                .is_ok()
        );
        assert!("pl-63a5400a".parse::<PrefixListId>().is_ok());
        assert!("111122223333".parse::<AccountId>().is_ok());
        for region in ["eu-west-1", "us-gov-west-1", "cn-north-1", "ap-southeast-4"] {
            assert!(region.parse::<Region>().is_ok(), "{region}");
        }
        assert!("us-west-2-lax-1a".parse::<Zone>().is_ok());
    }

    #[test]
    fn nonsense_does_not() {
        for text in [
            "",
            "i-",
            "i-xyz",
            "vpc-12345678",
            "i-0123456789abcdef0; rm -rf /",
        ] {
            assert!(text.parse::<InstanceId>().is_err(), "{text}");
            assert!(text.parse::<RouteTableId>().is_err(), "{text}");
            assert!(text.parse::<InterfaceId>().is_err(), "{text}");
        }
        for text in ["", "eu", "eu-west", "eu--1", "EU-WEST-1", "eu-west-1a"] {
            assert!(text.parse::<Region>().is_err(), "{text}");
        }
        assert!("11112222333".parse::<AccountId>().is_err());
    }

    #[test]
    fn the_error_names_the_value_and_what_was_expected() {
        let error = "nonsense"
            .parse::<Region>()
            .map_err(|error| error.to_string());
        assert_eq!(
            error,
            Err("`nonsense` is not a region such as eu-west-1".to_owned())
        );
    }
}
