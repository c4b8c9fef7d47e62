//! Which network addresses may be dialled. A source database and a self-hosted bucket are named by
//! customers: in the hosted service a name that leads to a private network must not be followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a deployment allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressPolicy {
    /// Loopback and private networks are allowed (self-hosted installs only).
    pub allow_private: bool,
}

impl AddressPolicy {
    /// Whether `address` may be dialled. Link-local, multicast and unspecified addresses never are:
    /// cloud metadata services live there.
    pub fn allows(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.allows_v4(v4),
            IpAddr::V6(v6) => self.allows_v6(v6),
        }
    }

    fn allows_v4(self, a: Ipv4Addr) -> bool {
        let [first, second, ..] = a.octets();
        if a.is_unspecified() || a.is_link_local() || a.is_multicast() || a.is_broadcast() || first == 0 || first >= 240
        {
            return false;
        }
        let shared = first == 100 && (64..128).contains(&second);
        let benchmark = first == 198 && (second == 18 || second == 19);
        let private = a.is_loopback()
            || a.is_private()
            || shared
            || benchmark
            || a.is_documentation()
            || a.octets()[..3] == [192, 0, 0];
        self.allow_private || !private
    }

    fn allows_v6(self, a: Ipv6Addr) -> bool {
        if let Some(v4) = a.to_ipv4_mapped() {
            return self.allows_v4(v4);
        }
        let s = a.segments();
        // NAT64 and 6to4 carry a v4 address that the network would translate.
        if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
            return self.allows_v4(Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7])));
        }
        if s[0] == 0x2002 {
            return self.allows_v4(Ipv4Addr::from((u32::from(s[1]) << 16) | u32::from(s[2])));
        }
        if a.is_unspecified() || a.is_multicast() || (s[0] & 0xffc0) == 0xfe80 {
            return false;
        }
        // AWS's metadata service over IPv6.
        if a == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
            return false;
        }
        let private = a.is_loopback()
            || (s[0] & 0xfe00) == 0xfc00
            || (s[0] == 0x2001 && s[1] == 0xdb8)
            || (s[0] & 0xffc0) == 0xfec0;
        self.allow_private || !private
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosted_and_self_hosted() {
        let hosted = AddressPolicy { allow_private: false };
        let own = AddressPolicy { allow_private: true };
        for never in [
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "fe80::1",
            "::",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            let ip = never.parse().unwrap();
            assert!(!hosted.allows(ip) && !own.allows(ip), "{never}");
        }
        for private in
            ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.20.0.1", "100.64.0.1", "::1", "fd12::1", "::ffff:10.0.0.1"]
        {
            let ip = private.parse().unwrap();
            assert!(!hosted.allows(ip) && own.allows(ip), "{private}");
        }
        for public in ["1.1.1.1", "52.95.110.1", "2600:1f18::1"] {
            assert!(hosted.allows(public.parse().unwrap()), "{public}");
        }
    }
}
