//! Asks the router to forward ports to this machine: by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP, whichever it
//! speaks.
//!
//! A mapping lasts for some minutes and is renewed long before that, so a router that was restarted has it again within
//! [`RENEW_EVERY`], and one whose server was killed forgets it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use crab_nat::{InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use igd_next::{
    AddPortError, PortMappingProtocol, SearchOptions,
    aio::{
        Gateway,
        tokio::{Tokio, search_gateway},
    },
};
use tokio::{sync::mpsc, time::sleep};

use crate::transport::{Transport, source_of};

/// How often a mapping is renewed, and a router that has none is asked again.
pub const RENEW_EVERY: Duration = Duration::from_secs(30);

/// How long a mapping lasts when nobody renews it, in seconds.
const LIFETIME: u32 = 600;

/// How long a router has to answer by UPnP.
const UPNP_TIMEOUT: Duration = Duration::from_secs(3);

/// The same by PCP and NAT-PMP: 250, 500 and 1000 ms.
const PCP_TIMEOUTS: TimeoutConfig =
    TimeoutConfig { initial_timeout: Duration::from_millis(250), max_retries: 2, max_retry_timeout: None };

/// What routers show as the owner of a mapping.
const DESCRIPTION: &str = "kameo-ping";

/// A port that the router forwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// The transport.
    pub transport: Transport,
    /// Where others reach it.
    pub address: SocketAddr,
    /// The protocol by which the router was asked.
    pub by: &'static str,
}

/// What becomes of a mapping.
#[derive(Clone, Debug)]
pub enum MappingEvent {
    /// The router forwards the port.
    Mapped(Mapping),
    /// It no longer does.
    Lost(Mapping, String),
    /// It does not, for this reason. Said once, until it does.
    Failed(Transport, String),
}

/// Keeps mappings for the ports of a node.
#[derive(Debug)]
pub struct PortMapper {
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Port {
    transport: Transport,
    own: NonZeroU16,
    held: Option<(Held, Mapping)>,
    has_failed: bool,
}

/// How a mapping is renewed and removed.
enum Held {
    Pcp(Box<PortMapping>),
    Upnp { gateway: Box<Gateway<Tokio>>, external: u16 },
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp(_) => "Pcp",
            Self::Upnp { .. } => "Upnp",
        })
    }
}

impl PortMapper {
    /// For these ports of this machine. Nothing is mapped yet.
    pub fn new(ports: impl IntoIterator<Item = (Transport, NonZeroU16)>) -> Self {
        let port = |(transport, own)| Port { transport, own, held: None, has_failed: false };
        Self { ports: ports.into_iter().map(port).collect() }
    }

    /// Maps the ports, and renews them, until this is dropped.
    pub async fn run(&mut self, events: &mpsc::UnboundedSender<MappingEvent>) {
        loop {
            for port in &mut self.ports {
                port.refresh(events).await;
            }
            sleep(RENEW_EVERY).await;
        }
    }

    /// Removes the mappings.
    pub async fn close(self) {
        for (held, mapping) in self.ports.into_iter().filter_map(|port| port.held) {
            let failure = match held {
                Held::Pcp(mapping) => mapping.try_drop().await.err().map(|(error, _)| error.to_string()),
                Held::Upnp { gateway, external } => {
                    let removed = gateway.remove_port(upnp_protocol(mapping.transport), external).await;
                    removed.err().map(|error| error.to_string())
                }
            };
            if let Some(failure) = failure {
                tracing::debug!(failure, "the router keeps {} until it expires", mapping.address);
            }
        }
    }
}

impl Port {
    async fn refresh(&mut self, events: &mpsc::UnboundedSender<MappingEvent>) {
        // The program may be about to end.
        let tell = |event| drop(events.send(event));
        let (transport, own) = (self.transport, self.own);
        if let Some((held, mapping)) = &mut self.held {
            match held.renew(transport, own).await {
                Ok(address) if address == mapping.address => return,
                Ok(address) => {
                    tell(MappingEvent::Lost(*mapping, "the router uses another address now".into()));
                    mapping.address = address;
                    return tell(MappingEvent::Mapped(*mapping));
                }
                Err(reason) => tell(MappingEvent::Lost(*mapping, reason)),
            }
            self.held = None;
        }
        match map(transport, own).await {
            Ok((held, mapping)) => {
                self.has_failed = false;
                self.held = Some((held, mapping));
                tell(MappingEvent::Mapped(mapping));
            }
            Err(reason) if !std::mem::replace(&mut self.has_failed, true) => {
                tell(MappingEvent::Failed(transport, reason));
            }
            Err(_) => {}
        }
    }
}

impl Held {
    /// Returns where others reach the port now.
    async fn renew(&mut self, transport: Transport, own: NonZeroU16) -> Result<SocketAddr, String> {
        match self {
            Self::Pcp(mapping) => {
                mapping.renew().await.map_err(|error| error.to_string())?;
                external_of(mapping).await
            }
            Self::Upnp { gateway, external } => {
                let address = add_by_upnp(gateway, transport, own, *external).await?;
                *external = address.port();
                Ok(address)
            }
        }
    }
}

/// Asks by PCP or NAT-PMP, which cost less time, and then by UPnP. Fails with what each said.
async fn map(transport: Transport, own: NonZeroU16) -> Result<(Held, Mapping), String> {
    let pcp = match map_by_pcp(transport, own).await {
        Ok(mapped) => return Ok(mapped),
        Err(reason) => reason,
    };
    let upnp = match map_by_upnp(transport, own).await {
        Ok(mapped) => return Ok(mapped),
        Err(reason) => reason,
    };
    Err(format!("PCP and NAT-PMP: {pcp}; UPnP: {upnp}"))
}

async fn map_by_pcp(transport: Transport, own: NonZeroU16) -> Result<(Held, Mapping), String> {
    let gateway = default_gateway().ok_or("this machine has no router")?;
    let client = source_of(gateway.into()).map_err(|error| error.to_string())?;
    let protocol = match transport {
        Transport::Quic => InternetProtocol::Udp,
        _ => InternetProtocol::Tcp,
    };
    let options = PortMappingOptions {
        external_port: Some(own),
        lifetime_seconds: Some(LIFETIME),
        timeout_config: Some(PCP_TIMEOUTS),
    };
    let mapped = PortMapping::new(gateway.into(), client, protocol, own, options).await;
    let mapped = mapped.map_err(|error| error.to_string())?;
    let address = external_of(&mapped).await?;
    let by = if matches!(mapped.mapping_type(), PortMappingType::NatPmp) { "NAT-PMP" } else { "PCP" };
    Ok((Held::Pcp(Box::new(mapped)), Mapping { transport, address, by }))
}

async fn external_of(mapping: &PortMapping) -> Result<SocketAddr, String> {
    let ip = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => external_ip.to_canonical(),
        PortMappingType::NatPmp => {
            let address = natpmp::external_address(mapping.gateway(), Some(PCP_TIMEOUTS)).await;
            IpAddr::from(address.map_err(|error| error.to_string())?)
        }
    };
    Ok(SocketAddr::new(ip, mapping.external_port().get()))
}

async fn map_by_upnp(transport: Transport, own: NonZeroU16) -> Result<(Held, Mapping), String> {
    let mut options = SearchOptions::default();
    options.timeout = Some(UPNP_TIMEOUT);
    options.single_search_timeout = Some(UPNP_TIMEOUT);
    let gateway = Box::new(search_gateway(options).await.map_err(|error| error.to_string())?);
    let address = add_by_upnp(&gateway, transport, own, own.get()).await?;
    Ok((Held::Upnp { gateway, external: address.port() }, Mapping { transport, address, by: "UPnP" }))
}

/// Adds a mapping or renews it, if possible of the port `external`; returns where others reach it.
async fn add_by_upnp(
    gateway: &Gateway<Tokio>,
    transport: Transport,
    own: NonZeroU16,
    external: u16,
) -> Result<SocketAddr, String> {
    let ip = source_of(gateway.addr.ip()).map_err(|error| error.to_string())?;
    let (own, protocol) = (SocketAddr::new(ip, own.get()), upnp_protocol(transport));
    let add = |lifetime| gateway.add_port(protocol, external, own, lifetime, DESCRIPTION);
    let added = match add(LIFETIME).await {
        // Some routers know only mappings that last until they are removed.
        Err(AddPortError::OnlyPermanentLeasesSupported) => add(0).await,
        added => added,
    };
    let external = match added {
        Ok(()) => external,
        Err(AddPortError::PortInUse) => {
            let other = gateway.add_any_port(protocol, own, LIFETIME, DESCRIPTION).await;
            other.map_err(|error| error.to_string())?
        }
        Err(error) => return Err(error.to_string()),
    };
    let ip = gateway.get_external_ip().await.map_err(|error| error.to_string())?;
    Ok(SocketAddr::new(ip, external))
}

fn upnp_protocol(transport: Transport) -> PortMappingProtocol {
    match transport {
        Transport::Quic => PortMappingProtocol::UDP,
        _ => PortMappingProtocol::TCP,
    }
}

/// The router that this machine reaches others through over IPv4. Where the system's table is not a file, the first
/// address of the machine's network, which most routers have; another host there answers nothing.
fn default_gateway() -> Option<Ipv4Addr> {
    if let Ok(routes) = std::fs::read_to_string("/proc/net/route") {
        return gateway_in(&routes);
    }
    let own = source_of(Ipv4Addr::new(192, 0, 2, 1).into()).ok()?;
    let networks = if_addrs::get_if_addrs().ok()?;
    networks.into_iter().find_map(|network| match network.addr {
        if_addrs::IfAddr::V4(address) if IpAddr::V4(address.ip) == own => {
            Some(Ipv4Addr::from((u32::from(address.ip) & u32::from(address.netmask)) + 1))
        }
        _ => None,
    })
}

/// The gateway of the default route in the text of Linux's `/proc/net/route`, whose numbers are of the machine's byte
/// order.
fn gateway_in(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_is_the_one_of_the_default_route() {
        let table =
            "Iface\tDestination\tGateway\tFlags\nwg0\t00000A0A\t00000000\t0001\neth0\t00000000\t0101A8C0\t0003\n";
        let expected = if cfg!(target_endian = "little") { [192, 168, 1, 1] } else { [1, 1, 168, 192] };
        assert_eq!(gateway_in(table), Some(expected.into()));
        assert_eq!(gateway_in("Iface\tDestination\tGateway\nppp0\t00000000\t00000000\n"), None);
        assert_eq!(gateway_in(""), None);
    }
}
