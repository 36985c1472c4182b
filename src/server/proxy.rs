//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): the first bytes of a connection say
//! where it really comes from. Read to its exact end, so that what follows is untouched.

use ppp::{HeaderResult, PartialResult, v1, v2};
use std::net::IpAddr;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_AT_MOST: usize = 107;
const V2_AT_MOST: usize = 1024;

/// `Some(Some(ip))`: the header says so. `Some(None)`: it says that the connection is its own. `None`: there is no header.
pub(super) async fn read(stream: &mut TcpStream) -> Option<Option<IpAddr>> {
    let mut header = vec![0_u8; V2_START.len()];
    stream.read_exact(&mut header).await.ok()?;
    if header == V2_START {
        header.resize(16, 0);
        stream.read_exact(header.get_mut(12..)?).await.ok()?;
        let length = usize::from(u16::from_be_bytes([*header.get(14)?, *header.get(15)?]));
        if length > V2_AT_MOST {
            return None;
        }
        header.resize(16 + length, 0);
        stream.read_exact(header.get_mut(16..)?).await.ok()?;
    } else {
        while !header.ends_with(b"\r\n") && header.len() < V1_AT_MOST {
            header.push(stream.read_u8().await.ok()?);
        }
    }
    parse(&header).map(|told| told.map(|ip| ip.to_canonical()))
}

fn parse(header: &[u8]) -> Option<Option<IpAddr>> {
    let parsed = HeaderResult::parse(header);
    if parsed.is_incomplete() {
        return None;
    }
    match parsed {
        HeaderResult::V1(Ok(header)) => Some(match header.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(ip) => Some(ip.source_address.into()),
            v1::Addresses::Tcp6(ip) => Some(ip.source_address.into()),
        }),
        HeaderResult::V2(Ok(header)) => Some(match (header.command, header.addresses) {
            (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Some(ip.source_address.into()),
            (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Some(ip.source_address.into()),
            _ => None,
        }),
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn both_versions_tell_the_source() {
        assert_eq!(parse(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"), Some(Some([1, 2, 3, 4].into())));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Some(None));
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02";
        assert_eq!(parse(v2), Some(Some([1, 2, 3, 4].into())));
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"), Some(None));
    }

    #[test]
    fn anything_else_is_no_header() {
        for bytes in
            [&b"DELETE /s1/groups/1/picture HTTP/1.1\r\n"[..], b"PROXY TCP4 a b 1 2\r\n", b"PROXY TCP4 1.2.3.4", b""]
        {
            assert_eq!(parse(bytes), None);
        }
    }
}
